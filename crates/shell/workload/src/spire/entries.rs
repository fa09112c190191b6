//! Registration entries of a SPIRE server.

use serde::Serialize;
use tonic::Code;
use x0t_identity::{EntryId, EntrySpec, Selectors};
use x0t_model::{SpiffeId, in_one_line};

use super::entry_form::{EntryFormError, SpireEntry, from_spire, to_spire, to_spire_id, to_spire_selectors};
use super::proto::entry::v1::entry_client::EntryClient;
use super::proto::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, list_entries_request::Filter,
};
use super::proto::types::{self, EntryMask, SelectorMatch, selector_match::MatchBehavior};
use super::{ANSWER_LEN_MAX, SpireError, SpireServer, bounded};

/// Entries of one page and of one batch. A page at its longest, 32 selectors of 4 KiB each, stays below [`ANSWER_LEN_MAX`],
/// an ordinary batch below the 4 MiB that the server reads.
const BATCH_MAX: usize = 200;

/// Which entries to list; all that are set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Of this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Below this parent.
    pub parent: Option<SpiffeId>,
    /// With at least these selectors.
    pub selectors: Option<Selectors>,
}

/// An entry that the server has and the mesh's vocabulary has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The server's name for it.
    pub id: String,
    /// What is in the way.
    pub reason: String,
}

/// What a server has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EntryList {
    /// Entries, in the server's order.
    pub entries: Vec<SpireEntry>,
    /// Those that could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// What became of an entry that was to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was.
    New(SpireEntry),
    /// One of the same identity, parent and selectors is there already: this one.
    Existed(SpireEntry),
}

/// Why one item of a batch failed, although others may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// Refused by the server.
    #[error("refused: {message} ({code:?})")]
    Refused {
        /// As what.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// Cannot be expressed, there or here.
    #[error(transparent)]
    Form(#[from] EntryFormError),
}

impl SpireServer {
    /// All entries that `filter` lets through, page by page.
    pub async fn list_entries(&self, filter: &EntryFilter) -> Result<EntryList, SpireError> {
        const METHOD: &str = "Entry.ListEntries";
        let filter = Filter {
            by_spiffe_id: filter.spiffe_id.as_ref().map(to_spire_id),
            by_parent_id: filter.parent.as_ref().map(to_spire_id),
            by_selectors: filter.selectors.as_ref().map(|selectors| SelectorMatch {
                selectors: to_spire_selectors(selectors),
                r#match: MatchBehavior::MatchSuperset.into(),
            }),
            ..Filter::default()
        };
        let page = |page_token: String| {
            let request = ListEntriesRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: BATCH_MAX as i32,
                page_token,
            };
            let call = self.call(METHOD, |channel| async move { entries(channel).list_entries(request).await });
            async move { call.await.map(|answer| (answer.entries, answer.next_page_token)) }
        };
        let mut list = EntryList::default();
        for entry in self.pages(METHOD, page).await? {
            let id = bounded(&entry.id);
            match from_spire(entry) {
                Ok(entry) => list.entries.push(entry),
                Err(error) => list.unreadable.push(Unreadable { id, reason: in_one_line(&error) }),
            }
        }
        Ok(list)
    }

    /// How many there are.
    pub async fn count_entries(&self) -> Result<u64, SpireError> {
        let call = |channel| async move { entries(channel).count_entries(CountEntriesRequest::default()).await };
        let answer = self.call("Entry.CountEntries", call).await?;
        Ok(u64::try_from(answer.count).unwrap_or_default())
    }

    /// One entry; [`SpireError::NotFound`] if there is none of this name.
    pub async fn entry(&self, id: &EntryId) -> Result<SpireEntry, SpireError> {
        let request = GetEntryRequest { id: id.as_str().to_owned(), output_mask: None };
        let call = |channel| async move { entries(channel).get_entry(request).await };
        Ok(from_spire(self.call("Entry.GetEntry", call).await?)?)
    }

    /// Creates entries; a result for each, in the same order. Those that cannot be said to SPIRE are not sent.
    pub async fn create_entries(&self, specs: &[EntrySpec]) -> Result<Vec<Result<Created, ItemError>>, SpireError> {
        const METHOD: &str = "Entry.BatchCreateEntry";
        let forms = specs.iter().map(|spec| to_spire(spec, "", self.config.token_ttl_max)).collect();
        let send = |batch| async move {
            let request = BatchCreateEntryRequest { entries: batch, output_mask: None };
            let call = |channel| async move { entries(channel).batch_create_entry(request).await };
            let answer = self.call(METHOD, call).await?;
            Ok(answer.results.into_iter().map(|result| (result.status, result.entry)).collect())
        };
        let read = |status: Option<types::Status>, entry: Option<types::Entry>| {
            let existed = status.as_ref().is_some_and(|status| status.code == Code::AlreadyExists as i32);
            if !existed {
                ok(status)?;
            }
            let entry = from_spire(entry.ok_or(EntryFormError::Missing("entry in the answer"))?)?;
            Ok(if existed { Created::Existed(entry) } else { Created::New(entry) })
        };
        batches(METHOD, forms, send, read).await
    }

    /// Replaces what is written in entries; a result for each, in the same order.
    pub async fn update_entries(
        &self,
        updates: &[(EntryId, EntrySpec)],
    ) -> Result<Vec<Result<SpireEntry, ItemError>>, SpireError> {
        const METHOD: &str = "Entry.BatchUpdateEntry";
        // What SPIRE alone knows (admin, downstream, store) stays as it is.
        let mask = EntryMask {
            spiffe_id: true,
            parent_id: true,
            selectors: true,
            x509_svid_ttl: true,
            jwt_svid_ttl: true,
            federates_with: true,
            expires_at: true,
            dns_names: true,
            hint: true,
            ..EntryMask::default()
        };
        let form = |(id, spec): &(EntryId, EntrySpec)| to_spire(spec, id.as_str(), self.config.token_ttl_max);
        let send = |batch| async move {
            let request = BatchUpdateEntryRequest { entries: batch, input_mask: Some(mask), output_mask: None };
            let call = |channel| async move { entries(channel).batch_update_entry(request).await };
            let answer = self.call(METHOD, call).await?;
            Ok(answer.results.into_iter().map(|result| (result.status, result.entry)).collect())
        };
        let read = |status, entry: Option<types::Entry>| {
            ok(status)?;
            Ok(from_spire(entry.ok_or(EntryFormError::Missing("entry in the answer"))?)?)
        };
        batches(METHOD, updates.iter().map(form).collect(), send, read).await
    }

    /// Deletes entries; a result for each, in the same order.
    pub async fn delete_entries(&self, ids: &[EntryId]) -> Result<Vec<Result<(), ItemError>>, SpireError> {
        const METHOD: &str = "Entry.BatchDeleteEntry";
        let names = ids.iter().map(|id| Ok(id.as_str().to_owned())).collect();
        let send = |ids| async move {
            let request = BatchDeleteEntryRequest { ids };
            let call = |channel| async move { entries(channel).batch_delete_entry(request).await };
            let answer = self.call(METHOD, call).await?;
            Ok(answer.results.into_iter().map(|result| (result.status, ())).collect())
        };
        batches(METHOD, names, send, |status, ()| ok(status)).await
    }
}

fn entries(channel: tonic::transport::Channel) -> EntryClient<tonic::transport::Channel> {
    EntryClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX)
}

/// Sends what has a form in batches, and puts the results where the items stood.
async fn batches<I, R, T, F>(
    method: &'static str,
    forms: Vec<Result<I, EntryFormError>>,
    send: impl Fn(Vec<I>) -> F,
    read: impl Fn(Option<types::Status>, R) -> Result<T, ItemError>,
) -> Result<Vec<Result<T, ItemError>>, SpireError>
where
    F: Future<Output = Result<Vec<(Option<types::Status>, R)>, SpireError>>,
{
    let mut results: Vec<Option<Result<T, ItemError>>> = Vec::with_capacity(forms.len());
    let mut sent = Vec::new();
    for (place, form) in forms.into_iter().enumerate() {
        match form {
            Ok(item) => {
                results.push(None);
                sent.push((place, item));
            }
            Err(error) => results.push(Some(Err(error.into()))),
        }
    }
    let mut sent = sent.into_iter();
    loop {
        let (places, batch): (Vec<usize>, Vec<I>) = sent.by_ref().take(BATCH_MAX).unzip();
        if batch.is_empty() {
            break;
        }
        let answers = send(batch).await?;
        if answers.len() != places.len() {
            return Err(SpireError::Protocol { method, what: "not one result per item" });
        }
        for (place, (status, item)) in places.into_iter().zip(answers) {
            results[place] = Some(read(status, item));
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// The status of one item.
pub(super) fn ok(status: Option<types::Status>) -> Result<(), ItemError> {
    let status = status.ok_or(EntryFormError::Missing("status in the answer"))?;
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        Code::NotFound => Err(ItemError::NotFound),
        code => Err(ItemError::Refused { code, message: bounded(&status.message) }),
    }
}
