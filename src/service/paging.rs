//! Pages of a list: tokens, sizes, and how much fits into one message.

use std::{cmp::Reverse, sync::Arc};

use uuid::Uuid;

use crate::domain::{
    error::{Error, Result},
    key::{Binding, KeyId, KeyRecord},
    master_keys::MasterKeys,
    page_token, text,
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

/// The organization, instance and environment of a query.
pub(super) type BindingFilter = [Option<String>; 3];

/// The forms in which the texts of a filter may be stored, normalized first: all texts are now. Keys that were made before
/// that may have each text decomposed, or as the request has it. Nearly always there is one form; there are at most 27.
pub(super) fn stored_forms(given: &BindingFilter) -> Vec<BindingFilter> {
    let mut forms = vec![[None, None, None]];
    for (part, text) in given.iter().enumerate() {
        let Some(text) = text else { continue };
        let mut texts = vec![text::normalized(text).into_owned()];
        for other in [text::decomposed(text).into_owned(), text.clone()] {
            if !texts.contains(&other) {
                texts.push(other);
            }
        }
        let with = |form: &BindingFilter, text: &String| {
            let mut form = form.clone();
            form[part] = Some(text.clone());
            form
        };
        forms = texts.iter().flat_map(|text| forms.iter().map(move |form| with(form, text))).collect();
    }
    forms
}

/// A page of every form of a filter, newest first. `id` orders the items.
///
/// # Errors
///
/// Those of `list`.
pub(super) async fn list_forms<T, F: Future<Output = Result<Vec<T>>>>(
    forms: &[BindingFilter],
    limit: u32,
    id: impl Fn(&T) -> Uuid,
    mut list: impl FnMut(BindingFilter) -> F,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    for form in forms {
        items.append(&mut list(form.clone()).await?);
    }
    if forms.len() > 1 {
        items.sort_by_key(|item| Reverse(id(item)));
        items.dedup_by_key(|item| id(item));
        items.truncate(limit as usize);
    }
    Ok(items)
}

/// A filter of a query; an empty text does not filter.
pub(super) fn filter(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A filter as the token of its query covers it.
pub(super) fn text_part(filter: Option<&str>) -> Vec<u8> {
    filter.map_or(Vec::new(), |text| [b"=", text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_one_form_unless_its_texts_can_be_spelled_in_several() {
        let filter = |parts: [&str; 3]| parts.map(|part| filter(part.to_owned()));
        for (given, count) in [
            (["", "", ""], 1),
            (["acme", "eu-1", "production"], 1),
            (["日本", "", ""], 1),
            (["Bürö", "", ""], 2),
            (["Bu\u{308}rö", "", ""], 3),
            (["Bürö", "ä", "ö"], 8),
        ] {
            let forms = stored_forms(&filter(given));
            assert_eq!(forms.len(), count, "{given:?}");
            assert!(forms.contains(&filter(given)), "{given:?}");
            assert_eq!(forms[0], filter(given).map(|part| part.map(|text| text::normalized(&text).into_owned())));
        }
    }
}
