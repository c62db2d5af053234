//! `orgs`: the caller's organizations, and the choice among them.

use serde_json::{Value, json};

use crate::cli::client::{
    api::Api,
    environment::{Environment, Settings},
    failure::{Failure, Result},
    output::{self, ListWriter},
    table::Column,
    terminal,
    text::escape,
};

const COLUMNS: [Column; 3] = [
    Column { title: "", cell: |own| if own["current"] == true { "*" } else { "" }.to_owned(), min: 1, id: false },
    Column { title: "ORGANIZATION", cell: |own| own["id"].as_str().unwrap_or_default().to_owned(), min: 12, id: false },
    Column { title: "ROLE", cell: |own| own["role"].as_str().unwrap_or_default().to_owned(), min: 5, id: false },
];

/// The caller's organizations, each with whether it is the current one.
async fn organizations(environment: &Environment) -> Result<Vec<Value>> {
    let mut api = Api::connect(environment).await?;
    let answer = environment.screen.wait("asking", api.get(&["api", "v1", "whoami"], &[])).await?;
    let current = environment.organization()?;
    let own = answer["organizations"].as_array().cloned().unwrap_or_default();
    // A single organization is the current one without having been chosen.
    let only = own.len() == 1;
    let marked = own.into_iter().map(|own| {
        let is_current = match &current {
            Some(current) => own["id"] == current.as_str(),
            None => only,
        };
        json!({"id": own["id"], "role": own["role"], "current": is_current})
    });
    Ok(marked.collect())
}

pub async fn list(environment: &Environment) -> Result {
    let organizations = organizations(environment).await?;
    let mut listing = ListWriter::new(&environment.screen, environment.format(), &COLUMNS);
    listing.page(&organizations)?;
    if listing.finish()? == 0 {
        environment.screen.note("You are in no organization.");
    }
    Ok(())
}

pub async fn select(environment: &Environment, named: Option<&str>) -> Result {
    let screen = &environment.screen;
    if environment.api_key().is_some() {
        let variable = environment.product.variable("API_KEY");
        return Err(Failure::usage(format_args!("{variable} is set, and a key has an organization of its own")));
    }
    let organizations = organizations(environment).await?;
    let ids: Vec<&str> = organizations.iter().filter_map(|own| own["id"].as_str()).collect();
    let chosen = match named {
        Some(named) if ids.contains(&named) => named,
        Some(named) => {
            let own = ids.iter().map(|id| escape(id)).collect::<Vec<_>>().join(", ");
            return Err(Failure::new(format_args!("you are not in {}", escape(named)))
                .hint(format_args!("Your organizations: {own}")));
        }
        None if ids.is_empty() => return Err(Failure::new("you are in no organization")),
        None if !screen.can_ask => {
            return Err(Failure::usage("which one? Nobody can be asked here").hint(format_args!(
                "{} orgs select {}",
                environment.product.name,
                escape(ids[0])
            )));
        }
        None => {
            let default = organizations.iter().position(|own| own["current"] == true).unwrap_or_default();
            let shown = organizations.iter().map(|own| {
                let role = own["role"].as_str().unwrap_or_default();
                format!("{} ({role})", escape(own["id"].as_str().unwrap_or_default()))
            });
            ids[terminal::select("Organization", shown.collect(), default).await?]
        }
    };
    let lock = environment.lock().await?;
    environment.write_settings(&Settings { organization: Some(chosen.to_owned()), ..environment.settings()? })?;
    drop(lock);
    screen.note(format!("Organization: {} (environment {}).", escape(chosen), environment.name));
    Ok(())
}

pub async fn current(environment: &Environment) -> Result {
    let mut current = environment.organization()?;
    if current.is_none() {
        let own = organizations(environment).await?;
        current = own.iter().find(|own| own["current"] == true).and_then(|own| own["id"].as_str().map(str::to_owned));
    }
    let name = &environment.product.name;
    let current = current.ok_or_else(|| {
        Failure::new("no organization is chosen").hint(format_args!("Choose one with: {name} orgs select"))
    })?;
    let value = json!({"id": current});
    output::object(&environment.screen, environment.format(), &value, || escape(&current) + "\n")
}
