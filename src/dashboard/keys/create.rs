//! Creating a key: the form and its handler.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::response::Response;
use http::{StatusCode, request::Parts};
use time::{Date, macros::format_description};

use super::secret;
use crate::{
    dashboard::{
        chrome::{Chrome, Section},
        form::Form,
        response::page,
        text::{self, DAY},
        viewer::{Posted, Viewer, parameter},
    },
    domain::{
        caller::Caller,
        clock::{Micros, SECOND},
        error::{Error, ErrorKind, FieldViolation, Result},
        key::Binding,
        keyspace::{Keyspace, Prefixes},
        validation::MAX_LIFETIME,
    },
    service::keys::create::{CreateKey, Expiry},
};

/// The submitted values, shown again after an error.
#[derive(Debug, Clone, Default)]
struct Typed {
    keyspace: String,
    name: String,
    scopes: Vec<String>,
    scope_text: String,
    expiry: String,
    days: String,
    date: String,
    organization: String,
    instance: String,
    environment: String,
    webhook: String,
    metadata: String,
}

#[derive(Template)]
#[template(path = "keys/new.html")]
#[expect(clippy::struct_excessive_bools, reason = "each says whether the form has a part")]
struct NewPage {
    chrome: Chrome,
    typed: Typed,
    /// The names of the keyspaces to choose from.
    keyspaces: Vec<String>,
    /// The scopes to choose from; empty where they are free-form.
    scopes: Vec<String>,
    environments: Vec<String>,
    has_organization_field: bool,
    has_instance_field: bool,
    has_environment_field: bool,
    organization_required: bool,
    instance_required: bool,
    environment_required: bool,
    /// "90 days" where the keyspace has a default lifetime.
    default_ttl: String,
    /// What is wrong, by field.
    problems: Vec<(&'static str, String)>,
    /// The name of this form, which may be used once.
    once: String,
}

impl NewPage {
    /// What is wrong with a field; empty if nothing is.
    fn problem(&self, field: &str) -> &str {
        self.problems.iter().find(|(name, _)| *name == field).map_or("", |(_, what)| what)
    }

    fn has_scope(&self, scope: &str) -> bool {
        self.typed.scopes.iter().any(|chosen| chosen == scope)
    }

    /// Whether the optional part of the form is shown expanded.
    fn more(&self) -> bool {
        let typed = &self.typed;
        let parts = [&typed.webhook, &typed.metadata, &typed.instance, &typed.environment];
        let fields = ["webhook", "metadata", "instance", "environment"];
        parts.iter().any(|part| !part.is_empty()) || fields.iter().any(|field| !self.problem(field).is_empty())
    }
}

/// `GET /dashboard/settings/api-keys/new`
pub(in crate::dashboard) async fn form(viewer: Viewer, parts: Parts) -> Response {
    let result = empty_form(&viewer, &parameter(&parts, "keyspace").unwrap_or_default());
    viewer.answer(result)
}

fn empty_form(viewer: &Viewer, named: &str) -> Result<Response> {
    let keyspace = chosen_keyspace(viewer, named)?;
    let expiry = if keyspace.default_ttl.is_some() { "default" } else { "never" };
    let grantable = scopes(viewer, &keyspace);
    let typed = Typed {
        keyspace: keyspace.name.clone(),
        scopes: keyspace.default_scopes.iter().filter(|scope| grantable.contains(*scope)).cloned().collect(),
        expiry: expiry.to_owned(),
        days: "90".to_owned(),
        ..Typed::default()
    };
    show(viewer, &keyspace, typed, Vec::new(), StatusCode::OK)
}

/// The keyspaces in which the caller may create keys.
fn keyspaces(viewer: &Viewer) -> Result<Vec<Arc<Keyspace>>> {
    let manager = viewer.manager()?;
    let registry = &viewer.service().registry;
    // The reserved keyspace comes last: keys of products are the usual case.
    let mut keyspaces = registry.all().to_vec();
    keyspaces.rotate_left(1);
    keyspaces.retain(|keyspace| manager.keyspace(&keyspace.name).is_ok());
    Ok(keyspaces)
}

fn chosen_keyspace(viewer: &Viewer, named: &str) -> Result<Arc<Keyspace>> {
    let keyspaces = keyspaces(viewer)?;
    let found = keyspaces.iter().find(|keyspace| keyspace.name == named).or_else(|| {
        // A keyspace of others is answered like one that does not exist.
        keyspaces.first().filter(|_| named.is_empty())
    });
    found.cloned().ok_or_else(|| Error::invalid("keyspace", "no such keyspace"))
}

/// The scopes that the caller may grant; empty where they are free-form.
fn scopes(viewer: &Viewer, keyspace: &Keyspace) -> Vec<String> {
    let Ok(manager) = viewer.manager() else { return Vec::new() };
    let organization = &viewer.organization;
    let all = keyspace.scopes.iter().flatten();
    all.filter(|scope| manager.may_grant(keyspace, organization, std::slice::from_ref(scope)).is_ok())
        .cloned()
        .collect()
}

fn show(
    viewer: &Viewer,
    keyspace: &Keyspace,
    typed: Typed,
    problems: Vec<(&'static str, String)>,
    status: StatusCode,
) -> Result<Response> {
    let operator = matches!(viewer.caller(), Caller::Operator { .. });
    let bound = match viewer.caller() {
        Caller::Key(key) => key.binding.clone(),
        _ => Binding::default(),
    };
    let (require, is_product) = (keyspace.require, keyspace.name != crate::domain::keyspace::RESERVED_KEYSPACE);
    let environments = match &keyspace.prefixes {
        Prefixes::One(_) => Vec::new(),
        Prefixes::ByEnvironment(pairs) => pairs.iter().map(|(name, _)| name.clone()).collect(),
    };
    let template = NewPage {
        chrome: viewer.chrome(Section::Keys, "Create API Key"),
        keyspaces: keyspaces(viewer)?.iter().map(|keyspace| keyspace.name.clone()).collect(),
        scopes: scopes(viewer, keyspace),
        has_organization_field: operator && is_product,
        has_instance_field: bound.instance.is_empty() && (require.instance || operator && is_product),
        has_environment_field: bound.environment.is_empty() && (require.environment || operator && is_product),
        organization_required: require.organization,
        instance_required: require.instance,
        environment_required: require.environment,
        environments,
        default_ttl: keyspace.default_ttl.map(|ttl| text::counted(ttl.as_secs() / 86_400, "day")).unwrap_or_default(),
        once: viewer.service().dashboard.new_form(),
        problems,
        typed,
    };
    Ok(page(status, &template))
}

/// `POST /dashboard/settings/api-keys`
pub(in crate::dashboard) async fn submit(Posted { viewer, form }: Posted) -> Response {
    let result = create(&viewer, form).await;
    viewer.answer(result)
}

async fn create(viewer: &Viewer, mut form: Form) -> Result<Response> {
    let typed = Typed {
        keyspace: form.one("keyspace"),
        name: form.one("name"),
        scopes: form.many("scope"),
        scope_text: form.one("scopes"),
        expiry: form.one("expiry"),
        days: form.one("days"),
        date: form.one("date"),
        organization: form.one("organization"),
        instance: form.one("instance"),
        environment: form.one("environment"),
        webhook: form.one("webhook"),
        metadata: form.one("metadata"),
    };
    let once = form.one("once");
    form.finish()?;
    let keyspace = chosen_keyspace(viewer, &typed.keyspace)?;
    let (request, problems) = request(&typed, &keyspace, viewer.now());
    if !problems.is_empty() {
        return show(viewer, &keyspace, typed, problems, StatusCode::BAD_REQUEST);
    }
    let service = viewer.service();
    if !service.dashboard.spend_form(&viewer.open.session, &once, viewer.call()).await? {
        // The form was used already: a browser that reloads the page with the secret sends the form again.
        return Ok(secret::already_used(viewer));
    }
    match service.keys.create(viewer.caller(), request, viewer.call()).await {
        Ok(created) => {
            viewer.context.set_key(created.key.id);
            Ok(secret::created(viewer, &created))
        }
        Err(error) if error.kind == ErrorKind::InvalidArgument => {
            let problems = error.fields.iter().map(problem).collect();
            show(viewer, &keyspace, typed, problems, StatusCode::BAD_REQUEST)
        }
        Err(error) => Err(error),
    }
}

/// Converts the submitted values to a request. Returns also the problems that only the form can have.
fn request(typed: &Typed, keyspace: &Keyspace, now: Micros) -> (CreateKey, Vec<(&'static str, String)>) {
    let mut problems = Vec::new();
    let mut bad = |field: &'static str, what: &str| problems.push((field, what.to_owned()));
    if typed.name.trim().is_empty() {
        bad("name", "Give the key a name, so that you recognise it later.");
    }
    let mut scopes = typed.scopes.clone();
    scopes.extend(
        typed.scope_text.split([' ', ',', '\n', '\r', '\t']).filter(|word| !word.is_empty()).map(str::to_owned),
    );
    if keyspace.scopes.is_some() && scopes.is_empty() {
        bad("scopes", "Choose at least one scope.");
    }
    let expiry = match typed.expiry.as_str() {
        "days" => {
            if let Some(days) = typed.days.trim().parse::<i64>().ok().filter(|days| (1..=3_650).contains(days)) {
                Expiry::In(days * DAY)
            } else {
                bad("days", "A whole number of days, 1 to 3650.");
                Expiry::Default
            }
        }
        "date" => match end_of_day(typed.date.trim()) {
            Some(at) if at > now && at <= now.saturating_add(MAX_LIFETIME) => Expiry::At(at),
            Some(_) => {
                bad("date", "A day in the future, and at most ten years away.");
                Expiry::Default
            }
            None => {
                bad("date", "A date such as 2027-01-31.");
                Expiry::Default
            }
        },
        "default" | "never" | "" => Expiry::Default,
        _ => {
            bad("expiry", "Choose when the key expires.");
            Expiry::Default
        }
    };
    let metadata = match metadata(&typed.metadata) {
        Ok(pairs) => pairs,
        Err(line) => {
            bad("metadata", &format!("Line {line}: write one pair in each line, as name = value."));
            BTreeMap::new()
        }
    };
    let request = CreateKey {
        keyspace: keyspace.name.clone(),
        binding: Binding {
            organization: typed.organization.trim().to_owned(),
            instance: typed.instance.trim().to_owned(),
            environment: typed.environment.trim().to_owned(),
        },
        name: typed.name.trim().to_owned(),
        scopes: (!scopes.is_empty()).then_some(scopes),
        expiry,
        webhook_url: typed.webhook.trim().to_owned(),
        metadata,
        rate_limit: None,
        keyspaces: Vec::new(),
    };
    (request, problems)
}

/// The end of a day, so that a key is valid on the whole of it. Days are those of UTC.
fn end_of_day(text: &str) -> Option<Micros> {
    let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
    let next = date.next_day()?.midnight().assume_utc().unix_timestamp();
    next.checked_mul(SECOND)
}

/// Pairs, one in each line. The error is the number of the first line that is not a pair.
fn metadata(text: &str) -> std::result::Result<BTreeMap<String, String>, usize> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pair = |(at, line): (usize, &str)| {
        let (name, value) = line.split_once('=').ok_or(at + 1)?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    lines.map(pair).collect()
}

/// A use case's problem with a field, under the name that the form uses.
fn problem(bad: &FieldViolation) -> (&'static str, String) {
    let field = match &*bad.field {
        "name" => "name",
        "scopes" => "scopes",
        "ttl" => "days",
        "expire_time" => "date",
        "organization" => "organization",
        "instance" => "instance",
        "environment" => "environment",
        "webhook_url" => "webhook",
        "metadata" => "metadata",
        _ => "form",
    };
    let mut letters = bad.description.chars();
    let sentence = letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>());
    let sentence = sentence.unwrap_or_default();
    (field, if field == "form" { format!("{}: {sentence}.", bad.field) } else { format!("{sentence}.") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed() -> Typed {
        Typed { name: "n".to_owned(), expiry: "never".to_owned(), ..Typed::default() }
    }

    fn fields(typed: &Typed) -> Vec<&'static str> {
        request(typed, &Keyspace::default_keyspace(), 0).1.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn each_bad_field_is_named() {
        assert_eq!(fields(&typed()), [""; 0]);
        assert_eq!(fields(&Typed { name: " ".to_owned(), ..typed() }), ["name"]);
        for days in ["", "0", "-1", "1.5", "3651", "x", "99999999999999999999"] {
            let typed = Typed { expiry: "days".to_owned(), days: days.to_owned(), ..typed() };
            assert_eq!(fields(&typed), ["days"], "{days}");
        }
        for date in ["", "2027-02-30", "1.2.2027", "1969-01-01", "9999-12-31", "1990-01-01"] {
            let typed = Typed { expiry: "date".to_owned(), date: date.to_owned(), ..typed() };
            assert_eq!(fields(&typed), ["date"], "{date}");
        }
        assert_eq!(fields(&Typed { expiry: "soon".to_owned(), ..typed() }), ["expiry"]);
        assert_eq!(fields(&Typed { metadata: "a = 1\n\nb".to_owned(), ..typed() }), ["metadata"]);
    }

    #[test]
    fn a_key_is_valid_on_the_whole_of_its_last_day() {
        assert_eq!(end_of_day("1970-01-01"), Some(86_400 * SECOND));
        let typed = Typed { expiry: "date".to_owned(), date: "1970-01-31".to_owned(), ..typed() };
        let (request, problems) = request(&typed, &Keyspace::default_keyspace(), 0);
        assert_eq!((request.expiry, problems.len()), (Expiry::At(31 * DAY), 0));
    }
}
