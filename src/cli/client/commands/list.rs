//! Lists of the service, page by page: a page is written before the next one is fetched.

use serde_json::Value;

use crate::cli::client::{
    api::Api, args::Extent, environment::Environment, failure::Result, output::ListWriter, table::Column,
};

/// Most items of a page.
const PAGE: u64 = 1_000;

/// Writes a list; `what` names its items, as in JSON.
pub async fn pages(
    environment: &Environment,
    path: &[&str],
    what: &str,
    query: &[(&str, &str)],
    extent: &Extent,
    columns: &[Column],
) -> Result {
    let screen = &environment.screen;
    let mut api = Api::connect(environment).await?;
    let mut listing = ListWriter::new(screen, environment.format(), columns);
    let mut left = if extent.all { u64::MAX } else { extent.limit };
    let mut cursor = String::new();
    let more = loop {
        let limit = left.min(PAGE).to_string();
        let mut query = query.to_vec();
        query.extend([("limit", limit.as_str()), ("cursor", cursor.as_str())]);
        let page = screen.wait("listing", api.get(path, &query)).await?;
        let items = page[what].as_array().map(Vec::as_slice).unwrap_or_default();
        listing.page(items)?;
        left = left.saturating_sub(items.len() as u64);
        match page["nextCursor"].as_str() {
            Some(next) if left > 0 => next.clone_into(&mut cursor),
            next => break next.is_some(),
        }
    };
    match listing.finish()? {
        0 => screen.note(format!("There are no {what}.")),
        count if more => screen.note(format!("These are the newest {count}; --all shows all.")),
        _ => {}
    }
    Ok(())
}

/// The organization of the command, as a parameter of a query.
pub fn organization(environment: &Environment) -> Result<String> {
    Ok(environment.organization()?.unwrap_or_default())
}

/// A text field of an item.
pub fn text(item: &Value, name: &str) -> String {
    item[name].as_str().unwrap_or_default().to_owned()
}
