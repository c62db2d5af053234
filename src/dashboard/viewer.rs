//! The session of a request. Every page of a session is made through [`Viewer`], and every form that changes something is
//! read through [`Posted`], so that no handler can leave a check out.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::Response,
};
use http::{Extensions, request::Parts};

use super::{
    assets::Assets,
    chrome::{Chrome, Section},
    cookies::Cookie,
    form::{Form, foreign},
    response::{failure, see_other},
    state::{Shared, Site},
};
use crate::{
    domain::{
        access::{self, Manager},
        caller::Caller,
        clock::Micros,
        error::{Error, Result},
        session::Role,
    },
    service::{CallContext, Services, dashboard::OpenSession},
    transport::rest::{extract::csrf, request::RequestContext},
};

/// The session of a page, its caller, and the services.
pub(super) struct Viewer {
    pub(super) context: RequestContext,
    pub(super) open: OpenSession,
    pub(super) site: Site,
    pub(super) shared: Shared,
    /// The chosen organization; empty for all that the caller may see.
    pub(super) organization: String,
    /// The caller before an organization was chosen.
    whole: Caller,
    path: String,
}

/// A form that changes something, sent by a page of its own session.
pub(super) struct Posted {
    pub(super) viewer: Viewer,
    pub(super) form: Form,
}

impl Viewer {
    async fn of(parts: &Parts, extensions: &Extensions) -> std::result::Result<Self, Response> {
        let context = RequestContext::of(parts).map_err(|_| failure(Error::internal("no context"), None))?;
        let shared = extensions.get::<Shared>().cloned();
        let shared = shared.ok_or_else(|| failure(Error::internal("the route has no options"), None))?;
        let site = Site::of(parts, &context);
        let cookie = Cookie::Session.read(&parts.headers, &site);
        let service = context.service();
        let found = if cookie.is_empty() { Ok(None) } else { service.dashboard.open(&cookie, context.call()).await };
        let open = match found {
            Ok(Some(open)) => open,
            Ok(None) if parts.method == http::Method::GET || parts.method == http::Method::HEAD => {
                let target = parts.uri.path_and_query().map_or("/dashboard", http::uri::PathAndQuery::as_str);
                // A secret that was pasted into the search must not stay in a URL.
                let is_secret = parameter(parts, "q").is_some_and(|search| service.auth.holds_credential(&search));
                let target = if is_secret { parts.uri.path() } else { target };
                let query =
                    url::form_urlencoded::Serializer::new(String::new()).append_pair("return_to", target).finish();
                return Err(see_other(&format!("/dashboard/sign-in?{query}")));
            }
            Ok(None) => {
                let sentence = "Your session has ended. Please sign in again; nothing was changed.";
                return Err(failure(Error::forbidden(sentence), None));
            }
            Err(error) => return Err(failure(error, None)),
        };
        context.set_caller(open.caller.clone());
        let mut viewer = Self {
            context,
            whole: open.caller.clone(),
            open,
            site,
            shared,
            organization: String::new(),
            path: parts.uri.path().to_owned(),
        };
        if let Some(named) = parameter(parts, "org") {
            viewer.choose(&named).map_err(|error| viewer.failure(error))?;
        } else {
            viewer.choose_default();
        }
        Ok(viewer)
    }

    /// Chooses an organization: a person acts in one at a time.
    fn choose(&mut self, named: &str) -> Result<()> {
        if named.is_empty() {
            self.choose_default();
            return Ok(());
        }
        self.open.caller = access::restrict_to_organization(self.whole.clone(), named)?;
        named.clone_into(&mut self.organization);
        Ok(())
    }

    fn choose_default(&mut self) {
        let Caller::Session(session) = &self.open.caller else { return };
        let manageable = session.organizations.iter().find(|own| own.role > Role::Member);
        if let Some(own) = manageable.filter(|_| session.organizations.len() > 1) {
            let chosen = own.organization.clone();
            // This cannot fail, because the organization is one of the person's own.
            if let Ok(caller) = access::restrict_to_organization(self.whole.clone(), &chosen) {
                self.open.caller = caller;
                self.organization = chosen;
            }
        }
    }

    /// The caller.
    pub(super) fn caller(&self) -> &Caller {
        &self.open.caller
    }

    /// The caller's rights over keys.
    pub(super) fn manager(&self) -> Result<Manager<'_>> {
        access::may_manage(&self.open.caller)
    }

    /// The use cases.
    pub(super) fn service(&self) -> &Services {
        self.context.service()
    }

    /// The context that a use case gets besides its request.
    pub(super) fn call(&self) -> CallContext<'_> {
        self.context.call()
    }

    /// Now, by the wall clock.
    pub(super) fn now(&self) -> Micros {
        self.context.now()
    }

    /// The frame of a page.
    pub(super) fn chrome(&self, section: Section, title: &str) -> Chrome {
        let (role, organizations) = match &self.open.session.owner {
            crate::domain::dashboard::SessionOwner::Credential(_) => {
                let role = match &self.open.caller {
                    Caller::Operator { .. } => "Operator".to_owned(),
                    Caller::Key(key) if key.binding.organization.is_empty() => "Admin key".to_owned(),
                    Caller::Key(key) => format!("Admin key of {}", key.binding.organization),
                    _ => String::new(),
                };
                (role, Vec::new())
            }
            crate::domain::dashboard::SessionOwner::Person(person) => {
                let chosen = person.organizations.iter().find(|own| own.organization == self.organization);
                let chosen = chosen.or(match person.organizations.as_slice() {
                    [only] => Some(only),
                    _ => None,
                });
                let role = chosen.map(|own| format!("{} of {}", capitalized(own.role.name()), own.organization));
                let names = person.organizations.iter().map(|own| own.organization.clone());
                (role.unwrap_or_else(|| "Member".to_owned()), names.collect())
            }
        };
        let actor = &self.open.session.actor;
        Chrome {
            title: title.to_owned(),
            section,
            who: actor.strip_prefix("user:").unwrap_or(actor).to_owned(),
            role,
            organizations,
            organization: self.organization.clone(),
            path: self.path.clone(),
            token: self.service().dashboard.form_token(&self.open.session),
            refresh: false,
            assets: Assets::get(),
        }
    }

    /// The page of an error.
    pub(super) fn failure(&self, error: Error) -> Response {
        failure(error, Some(self.chrome(Section::Other, "")))
    }

    /// A handler's answer: its page, or the page of its error.
    pub(super) fn answer(&self, result: Result<Response>) -> Response {
        result.unwrap_or_else(|error| self.failure(error))
    }
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Response> {
        Self::of(parts, &parts.extensions).await
    }
}

impl<S: Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    /// The order matters: the body is read only for a live session, and fields only from a form of this session.
    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let mut viewer = Viewer::of(&parts, &parts.extensions).await?;
        if csrf::is_same_origin(&parts, viewer.context.peer().secure) == Some(false) {
            return Err(viewer.failure(foreign()));
        }
        let context = viewer.context.clone();
        let (_, mut form) = Form::read(Request::from_parts(parts, body), &context).await?;
        // Check the token as well, because some browsers omit the headers that are checked above.
        let token = form.one("token");
        if !viewer.service().dashboard.has_form_token(&viewer.open.session, &token) {
            return Err(viewer.failure(foreign()));
        }
        let chosen = form.one("org");
        if !chosen.is_empty() {
            viewer.choose(&chosen).map_err(|error| viewer.failure(error))?;
        }
        Ok(Self { viewer, form })
    }
}

/// A parameter of the query; the first one of this name.
pub(super) fn parameter(parts: &Parts, name: &str) -> Option<String> {
    let query = parts.uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
