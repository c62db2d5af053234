//! Pages of a list: tokens, sizes, and how many items fit into one message.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use uuid::Uuid;

use crate::{
    domain::{
        error::{Error, Result},
        key::{Binding, KeyId, KeyRecord},
        master_keys::MasterKeys,
        page_token, text,
        validation::DEFAULT_PAGE_SIZE,
    },
    store::page::RowPage,
};

/// About how many bytes one page may hold, whatever its size in keys: most gRPC clients refuse a message above 4 MiB.
const MAX_PAGE_BYTES: usize = 3 << 20;
/// About how many bytes the framing of a text takes.
const FRAMING: usize = 8;

/// How many pages that contain only keys of keyspaces that are no longer configured one call skips. After that it
/// returns an empty page.
pub(super) const MAX_PASSED_PAGES: u32 = 8;

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

/// The page size of a request; 0 means the default.
pub(super) fn page_size(requested: u32) -> u32 {
    if requested == 0 { DEFAULT_PAGE_SIZE } else { requested }
}

/// How many of the items, whose sizes are in bytes, fit into one page; one always does.
pub(super) fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fit = sizes.take_while(|size| {
        bytes += size;
        bytes <= MAX_PAGE_BYTES
    });
    fit.count().max(1)
}

/// About how many bytes a key takes in a message.
pub(super) fn key_size(key: &KeyRecord) -> usize {
    /// Id, prefix, times and the framing of each field.
    const FIXED: usize = 200;
    let Binding { organization, instance, environment } = &key.binding;
    let texts = [organization, instance, environment, &key.name, &key.revoke_reason, &key.webhook_url];
    let scopes = key.scopes.iter().map(|scope| scope.len() + FRAMING);
    FIXED + texts.map(String::len).iter().sum::<usize>() + scopes.sum::<usize>() + texts_size(&key.metadata)
}

/// About how many bytes pairs of texts take in a message.
pub(super) fn texts_size(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(name, text)| name.len() + text.len() + FRAMING).sum()
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
pub(super) async fn list_forms<T, F: Future<Output = Result<RowPage<T>>>>(
    forms: &[BindingFilter],
    limit: u32,
    id: impl Fn(&T) -> Uuid,
    mut list: impl FnMut(BindingFilter) -> F,
) -> Result<RowPage<T>> {
    let mut pages = Vec::new();
    for form in forms {
        pages.push(list(form.clone()).await?);
    }
    Ok(merged(pages, limit, id))
}

/// Several pages as one. It ends where the first of them has ended: below that, items are missing.
fn merged<T>(pages: Vec<RowPage<T>>, limit: u32, id: impl Fn(&T) -> Uuid) -> RowPage<T> {
    let ended_at = pages.iter().filter_map(|page| page.ended_at).max();
    let mut rows: Vec<T> = pages.into_iter().flat_map(|page| page.rows).collect();
    rows.retain(|row| ended_at.is_none_or(|end| id(row) >= end));
    rows.sort_by_key(|row| Reverse(id(row)));
    rows.dedup_by_key(|row| id(row));
    let is_full = rows.len() >= limit as usize;
    rows.truncate(limit as usize);
    RowPage { rows, ended_at: ended_at.filter(|_| !is_full) }
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
    #[test]
    fn several_pages_are_one_that_ends_where_the_first_of_them_ended() {
        let page = |rows: &[u128], ended_at: Option<u128>| RowPage {
            rows: rows.iter().map(|id| Uuid::from_u128(*id)).collect(),
            ended_at: ended_at.map(Uuid::from_u128),
        };
        let merged = |pages: &[RowPage<Uuid>], limit| merged(pages.to_vec(), limit, |id| *id);
        assert_eq!(merged(&[page(&[9, 5], None)], 4), page(&[9, 5], None));
        assert_eq!(merged(&[page(&[9, 5], None), page(&[7, 5], None)], 4), page(&[9, 7, 5], None));
        // Below 6 the first page may have more items, which are not read yet.
        assert_eq!(merged(&[page(&[9], Some(6)), page(&[7, 5], None)], 4), page(&[9, 7], Some(6)));
        assert_eq!(merged(&[page(&[], Some(6)), page(&[], Some(2))], 4), page(&[], Some(6)));
        // The page after a full page starts after its last row.
        assert_eq!(merged(&[page(&[9], Some(1)), page(&[7, 5], None)], 2), page(&[9, 7], None));
    }
}
