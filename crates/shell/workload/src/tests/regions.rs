//! The driver of regions in paused time, and its checks over real sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use x0t_identity::region_failover::{
    CheckFailure, CheckOutcome, FailoverConfig, FailoverSettings, Region, RegionEvent, RegionsStatus, RpcOutcome,
};
use x0t_workload::regions::{HealthProber, Prober, Regions};

const LATENCY: Duration = Duration::from_millis(20);
const HEALTHY: CheckOutcome = CheckOutcome::Healthy { latency: LATENCY };
const REFUSED: CheckOutcome = CheckOutcome::Failed(CheckFailure::Refused);

#[tokio::test(start_paused = true)]
async fn the_active_region_changes_within_three_intervals_and_one_second_and_comes_back() {
    let weather = Weather::default();
    let (regions, driver) = Regions::new(config("eu=unix:///eu;us=unix:///us"), [3; 32]);
    let mut events = regions.events();
    tokio::spawn(driver.drive(weather.clone()));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((*regions.active().borrow(), regions.view().status), (0, RegionsStatus::Ok));

    weather.set("eu", Some(REFUSED));
    let began = tokio::time::Instant::now();
    regions.active().wait_for(|active| *active == 1).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(91), "{:?}", began.elapsed());
    assert!(matches!(events.recv().await.unwrap(), RegionEvent::Down { .. }));
    assert!(matches!(events.recv().await.unwrap(), RegionEvent::FailedOver { .. }));

    weather.set("eu", Some(HEALTHY));
    regions.active().wait_for(|active| *active == 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_check_that_never_ends_is_a_failure_and_outcomes_of_calls_count() {
    let weather = Weather::default();
    let (regions, driver) = Regions::new(config("eu=unix:///eu;us=unix:///us"), [3; 32]);
    tokio::spawn(driver.drive(weather.clone()));
    tokio::time::sleep(Duration::from_secs(100)).await;
    weather.set("eu", None);
    let began = tokio::time::Instant::now();
    let mut active = regions.active();
    while *active.borrow_and_update() == 0 {
        regions.report(0, RpcOutcome::Unreachable(CheckFailure::Unavailable));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(12), "{:?}", began.elapsed());
    weather.set("us", None);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(regions.view().status, RegionsStatus::AllDown);
}

#[tokio::test]
async fn a_check_tells_apart_what_says_yes_says_no_hangs_babbles_and_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let _service = UnixListener::bind(&socket).unwrap();
    let endpoint = socket.to_str().unwrap();
    let prober = HealthProber::new(None).unwrap();
    let limit = Duration::from_millis(400);
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
    let cases = [
        (Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), None),
        (Some("HTTP/1.1 204 No Content\r\n\r\n"), None),
        // A body that never comes is nobody's business.
        (Some("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"), None),
        (Some("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), Some(CheckFailure::Status(503))),
        (Some(redirect), Some(CheckFailure::Status(302))),
        (Some("SSH-2.0-OpenSSH_9.2\r\n"), Some(CheckFailure::NotHttp)),
        (Some(""), Some(CheckFailure::NotHttp)),
        (None, Some(CheckFailure::NoAnswer)),
    ];
    for (answer, expected) in cases {
        let port = answering(answer).await;
        let region = region(endpoint, &format!("|http://127.0.0.1:{port}/ready"));
        match (prober.check(&region, limit).await, expected) {
            (CheckOutcome::Healthy { latency }, None) => assert!(latency < limit),
            (CheckOutcome::Failed(failure), Some(expected)) => assert_eq!(failure, expected, "{answer:?}"),
            (other, _) => panic!("{answer:?}: {other:?}"),
        }
    }

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let absent = region(endpoint, &format!("|http://127.0.0.1:{nobody}/ready"));
    assert!(matches!(prober.check(&absent, limit).await, CheckOutcome::Degraded { .. }));
    // No anchors, so no certificate is good; and a server that speaks no TLS.
    let port = answering(Some("HTTP/1.1 200 OK\r\n\r\n")).await;
    let https = region(endpoint, &format!("|https://127.0.0.1:{port}/ready"));
    assert_eq!(prober.check(&https, limit).await, CheckOutcome::Failed(CheckFailure::Tls));
    assert!(matches!(prober.check(&region(endpoint, ""), limit).await, CheckOutcome::Healthy { .. }));
    let gone = region("/nowhere/agent.sock", "");
    assert_eq!(prober.check(&gone, limit).await, CheckOutcome::Failed(CheckFailure::Unreachable));
}

/// A server that says one thing to everybody, or nothing for ever.
async fn answering(answer: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                match answer {
                    Some(answer) => stream.write_all(answer.as_bytes()).await,
                    None => std::future::pending().await,
                }
            });
        }
    });
    port
}

fn config(regions: &str) -> FailoverConfig {
    FailoverSettings::parse_environment(regions, None, None, None).unwrap()
}

fn region(socket: &str, health: &str) -> Region {
    config(&format!("eu=unix://{socket}{health}")).regions()[0].clone()
}

/// What each region answers; `None` never answers. Fine unless set.
#[derive(Clone, Default)]
struct Weather(Arc<Mutex<BTreeMap<String, Option<CheckOutcome>>>>);

impl Weather {
    fn set(&self, region: &str, outcome: Option<CheckOutcome>) {
        self.0.lock().unwrap().insert(region.to_owned(), outcome);
    }
}

impl Prober for Weather {
    async fn check(&self, region: &Region, _: Duration) -> CheckOutcome {
        tokio::time::sleep(LATENCY).await;
        let outcome = self.0.lock().unwrap().get(&region.name).copied().unwrap_or(Some(HEALTHY));
        match outcome {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}
