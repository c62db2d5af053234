//! The frame of every page: navigation, session and files.

use super::assets::Assets;

/// The part of the dashboard that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Keys,
    Activity,
    Overview,
    Sessions,
    /// None of them.
    Other,
}

/// The navigation of a page with a session.
#[derive(Debug, Clone)]
pub(super) struct Chrome {
    pub(super) title: String,
    pub(super) section: Section,
    /// Who is signed in.
    pub(super) who: String,
    /// Their role: operator, owner of an organization, …
    pub(super) role: String,
    /// The organizations to choose from.
    pub(super) organizations: Vec<String>,
    /// The chosen organization; empty for all, or where there is nothing to choose.
    pub(super) organization: String,
    /// The path of this page, to which the choice of an organization is sent.
    pub(super) path: String,
    /// The token of each form.
    pub(super) token: String,
    /// Whether the page updates by itself: by htmx, and without script by loading itself again.
    pub(super) refresh: bool,
    /// The names of the files.
    pub(super) assets: &'static Assets,
}

impl Chrome {
    pub(super) fn titled(mut self, title: &str) -> Self {
        title.clone_into(&mut self.title);
        self
    }

    /// A path that keeps the chosen organization.
    pub(super) fn link(&self, path: &str) -> String {
        if self.organizations.len() < 2 {
            return path.to_owned();
        }
        let query =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("org", &self.organization).finish();
        format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })
    }

    /// The path of a key, or of a page below it.
    pub(super) fn key_link(&self, id: &str, below: &str) -> String {
        self.link(&format!("/dashboard/settings/api-keys/{id}{below}"))
    }

    /// Whether a navigation link is the current one.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(
            (self.section, name),
            (Section::Keys, "keys")
                | (Section::Activity, "activity")
                | (Section::Overview, "overview")
                | (Section::Sessions, "sessions")
        )
    }
}

/// The frame of a page without a session.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    pub(super) title: String,
    /// The names of the files.
    pub(super) assets: &'static Assets,
}

impl Bare {
    pub(super) fn titled(title: &str) -> Self {
        Self { title: title.to_owned(), assets: Assets::get() }
    }
}
