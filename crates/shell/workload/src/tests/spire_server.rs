//! A SPIRE server that behaves as badly as one can.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};
use x0t_identity::{EntrySpec, Parent, Selectors};
use x0t_workload::spire::{Created, EntryFilter, EntryFormError, ItemError, SpireConfig, SpireError, SpireServer};

use crate::spire::proto::entry::v1::entry_server::{Entry as Api, EntryServer};
use crate::spire::proto::entry::v1::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse, GetEntryRequest,
    ListEntriesRequest, ListEntriesResponse, batch_create_entry_response as created,
};
use crate::spire::proto::types;

#[tokio::test]
async fn a_list_is_followed_to_its_last_page_and_what_cannot_be_read_is_named() {
    let fake = Fake { pages: 7, ..Fake::default() };
    let list = fake.serve().client(SpireConfig::default()).list_entries(&EntryFilter::default()).await.unwrap();
    assert_eq!(list.entries.len(), 7 * 3);
    assert_eq!(list.unreadable.len(), 7);
    assert_eq!(list.unreadable[0].id, "odd 0");
    assert!(list.unreadable[0].reason.contains("not an entry's id"), "{:?}", list.unreadable[0]);
}

#[tokio::test]
async fn a_list_that_turns_in_a_circle_is_left() {
    let fake = Fake { circle: true, ..Fake::default() };
    let error = fake.serve().client(SpireConfig::default()).list_entries(&EntryFilter::default()).await.unwrap_err();
    assert!(matches!(error, SpireError::Protocol { what: "the same page token twice", .. }), "{error}");
}

#[tokio::test]
async fn each_item_of_a_large_batch_has_its_own_result_where_it_stood() {
    let fake = Fake::default();
    let sizes = fake.batches.clone();
    let mut specs: Vec<EntrySpec> = (0..450).map(|n| spec(&format!("/w{n}"))).collect();
    specs[3].parent = Parent::AnyNode;
    specs[5].jwt_ttl = Some(Duration::from_secs(25 * 3600));
    specs[7] = spec("/taken");
    specs[9] = spec("/refused");
    let results = fake.serve().client(SpireConfig::default()).create_entries(&specs).await.unwrap();
    assert_eq!(*sizes.lock().unwrap(), [200, 200, 48]);
    assert_eq!(results.len(), 450);
    for (n, result) in results.into_iter().enumerate() {
        match (n, result) {
            (3, Err(ItemError::Form(EntryFormError::AnyNode))) => {}
            (5, Err(ItemError::Form(EntryFormError::TokenTtl { max, .. }))) => {
                assert_eq!(max, Duration::from_secs(24 * 3600));
            }
            (7, Ok(Created::Existed(entry))) => assert_eq!(entry.entry.spec, specs[7]),
            (9, Err(ItemError::Refused { code: Code::PermissionDenied, message })) => {
                assert_eq!(message, "no  way", "a control character became a space");
            }
            (n, Ok(Created::New(entry))) => assert_eq!(entry.entry.spec, specs[n]),
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_with_too_few_results_is_refused() {
    let fake = Fake { forgets_one: true, ..Fake::default() };
    let served = fake.serve();
    let error = served.client(SpireConfig::default()).create_entries(&[spec("/a"), spec("/b")]).await.unwrap_err();
    assert!(matches!(error, SpireError::Protocol { what: "not one result per item", .. }), "{error}");
}

#[tokio::test]
async fn no_more_calls_run_at_once_than_the_limit_says() {
    let (open, gate) = watch::channel(false);
    let fake = Fake { gate: Some(gate), ..Fake::default() };
    let (most, running) = (fake.most_at_once.clone(), fake.running.clone());
    let served = fake.serve();
    let client = served.client(SpireConfig { concurrent_calls_max: 3, ..SpireConfig::default() });
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.count_entries().await.unwrap() })
        })
        .collect();
    let mut running = running.subscribe();
    running.wait_for(|running| *running == 3).await.unwrap();
    open.send_replace(true);
    for call in calls {
        assert_eq!(call.await.unwrap(), 42);
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_deadline_and_one_that_is_absent_nothing() {
    let (_open, gate) = watch::channel(false);
    let fake = Fake { gate: Some(gate), ..Fake::default() };
    let served = fake.serve();
    let client = served.client(SpireConfig { deadline: Duration::from_millis(200), ..SpireConfig::default() });
    let error = client.count_entries().await.unwrap_err();
    assert!(matches!(error, SpireError::Deadline { method: "Entry.CountEntries", .. }), "{error}");
    let absent = SpireServer::at(&served.folder.path().join("nobody.sock"), SpireConfig::default());
    let error = absent.count_entries().await.unwrap_err();
    assert!(matches!(error, SpireError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().ends_with("nobody.sock is not available"), "{error}");
}

fn spec(path: &str) -> EntrySpec {
    EntrySpec {
        x509_ttl: Some(Duration::from_secs(600)),
        dns_names: vec!["web.test".into()],
        federates_with: ["other.test".parse().unwrap()].into(),
        hint: Some("internal".into()),
        ..EntrySpec::new(
            format!("spiffe://spire.test{path}").parse().unwrap(),
            Parent::Node("spiffe://spire.test/host".parse().unwrap()),
            Selectors::new(["unix:uid:7".parse().unwrap(), "docker:label:a:b".parse().unwrap()]).unwrap(),
        )
    }
}

#[derive(Default)]
struct Fake {
    pages: usize,
    circle: bool,
    forgets_one: bool,
    batches: Arc<Mutex<Vec<usize>>>,
    gate: Option<watch::Receiver<bool>>,
    running: watch::Sender<usize>,
    most_at_once: Arc<AtomicUsize>,
}

struct Served {
    folder: tempfile::TempDir,
}

impl Served {
    fn client(&self, config: SpireConfig) -> SpireServer {
        SpireServer::at(&self.folder.path().join("api.sock"), config)
    }
}

impl Fake {
    fn serve(self) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        let service = EntryServer::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        Served { folder }
    }
}

#[tonic::async_trait]
impl Api for Fake {
    async fn count_entries(&self, _: Request<CountEntriesRequest>) -> Result<Response<CountEntriesResponse>, Status> {
        self.running.send_modify(|running| *running += 1);
        self.most_at_once.fetch_max(*self.running.borrow(), Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            let _ = gate.clone().wait_for(|open| *open).await;
        }
        self.running.send_modify(|running| *running -= 1);
        Ok(Response::new(CountEntriesResponse { count: 42 }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        if self.circle {
            return Ok(Response::new(ListEntriesResponse { entries: Vec::new(), next_page_token: "round".into() }));
        }
        let token = request.into_inner().page_token;
        let page: usize = if token.is_empty() { 0 } else { token.parse().unwrap() };
        let id = |n| format!("{page}-{n}");
        let mut entries: Vec<types::Entry> = (0..3).map(|n| types::Entry { id: id(n), ..wire("/listed") }).collect();
        entries.push(types::Entry { id: format!("odd {page}"), ..wire("/odd") });
        let next_page_token = if page + 1 == self.pages { String::new() } else { (page + 1).to_string() };
        Ok(Response::new(ListEntriesResponse { entries, next_page_token }))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let entries = request.into_inner().entries;
        self.batches.lock().unwrap().push(entries.len());
        let result = |entry: types::Entry| {
            let (code, message) = match entry.spiffe_id.as_ref().map(|id| id.path.as_str()) {
                Some("/taken") => (Code::AlreadyExists, ""),
                Some("/refused") => (Code::PermissionDenied, "no\n\tway"),
                _ => (Code::Ok, ""),
            };
            let entry = (code != Code::PermissionDenied).then(|| types::Entry { id: "new".into(), ..entry });
            let status = Some(types::Status { code: code as i32, message: message.into() });
            created::Result { status, entry }
        };
        let skipped = usize::from(self.forgets_one);
        let results = entries.into_iter().skip(skipped).map(result).collect();
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn get_entry(&self, _: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        Err(Status::not_found("no such entry"))
    }

    async fn batch_update_entry(
        &self,
        _: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn batch_delete_entry(
        &self,
        _: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

fn wire(path: &str) -> types::Entry {
    let id = |path: &str| Some(types::Spiffeid { trust_domain: "spire.test".into(), path: path.into() });
    let selector = types::Selector { r#type: "unix".into(), value: "uid:7".into() };
    types::Entry { spiffe_id: id(path), parent_id: id("/host"), selectors: vec![selector], ..types::Entry::default() }
}
