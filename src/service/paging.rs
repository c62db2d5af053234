//! Pages of a list: tokens, sizes, and how much fits into one message.

use std::sync::Arc;

use uuid::Uuid;

use crate::domain::{
    error::{Error, Result},
    key::{Binding, KeyId, KeyRecord},
    master_keys::MasterKeys,
    page_token,
    validation::DEFAULT_PAGE_SIZE,
};

/// About how many bytes one page may hold, whatever its size in keys: most gRPC clients refuse a message above 4 MiB.
const MAX_PAGE_BYTES: usize = 3 << 20;

/// Makes and reads page tokens. A token is bound to the filters of its query.
pub(super) struct PageTokens(Arc<MasterKeys>);

impl PageTokens {
    pub fn new(master_keys: Arc<MasterKeys>) -> Self {
        Self(master_keys)
    }

    /// The token of the page after the item with the id `last`.
    pub fn token(&self, filters: &[Vec<u8>], last: Uuid) -> String {
        page_token::encode(&self.0, &parts(filters), KeyId(last))
    }

    /// The id after which a page begins; none for the first page.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a token of another query.
    pub fn position(&self, filters: &[Vec<u8>], token: &str) -> Result<Option<Uuid>> {
        if token.is_empty() {
            return Ok(None);
        }
        let last = page_token::decode(&self.0, &parts(filters), token);
        let last = last.ok_or_else(|| Error::invalid("page_token", "is not a token of this query"))?;
        Ok(Some(last.0))
    }
}

fn parts(filters: &[Vec<u8>]) -> Vec<&[u8]> {
    filters.iter().map(Vec::as_slice).collect()
}

/// The page size of a request; 0 asks for the default.
pub(super) fn page_size(requested: u32) -> u32 {
    if requested == 0 { DEFAULT_PAGE_SIZE } else { requested }
}

/// How many of the keys fit into one page; one always does.
pub(super) fn fitting<'a>(keys: impl Iterator<Item = &'a KeyRecord>) -> usize {
    let mut bytes = 0;
    let fit = keys.take_while(|key| {
        bytes += encoded_size(key);
        bytes <= MAX_PAGE_BYTES
    });
    fit.count().max(1)
}

/// About how many bytes a key takes in a message.
fn encoded_size(key: &KeyRecord) -> usize {
    /// Id, prefix, times and the framing of each field.
    const FIXED: usize = 200;
    const FRAMING: usize = 8;
    let Binding { organization, instance, environment } = &key.binding;
    let texts = [organization, instance, environment, &key.name, &key.revoke_reason, &key.webhook_url];
    let scopes = key.scopes.iter().map(|scope| scope.len() + FRAMING);
    let metadata = key.metadata.iter().map(|(key, value)| key.len() + value.len() + FRAMING);
    FIXED + texts.map(String::len).iter().sum::<usize>() + scopes.sum::<usize>() + metadata.sum::<usize>()
}

/// A filter of a query; an empty text does not filter.
pub(super) fn filter(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A filter as the token of its query covers it.
pub(super) fn text_part(filter: Option<&str>) -> Vec<u8> {
    filter.map_or(Vec::new(), |text| [b"=", text.as_bytes()].concat())
}
