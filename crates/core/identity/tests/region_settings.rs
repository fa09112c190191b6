//! Regions as operators write them, right and wrong.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

use std::time::Duration;

use x0t_identity::region_failover::{
    FailoverConfig, FailoverSettings, HealthUrl, RegionEndpoint, RegionMistakes, Scheme,
};

#[test]
fn what_was_understood_is_written_so_that_it_is_understood_alike() {
    let text = "eu=unix:///run/a.sock|https://[::1]:8443/ready?x=1|prio=3;us=tcp://127.0.0.1:8000;ap=unix:/b|http://h/";
    let config = FailoverSettings::parse_environment(text, Some("2m"), Some("5"), Some("1500ms")).unwrap();
    let again = config.to_settings().into_config().unwrap();
    assert_eq!(again, config);
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let text = "eu=unix:///run/spire/agent.sock|https://eu.example.org/ready|prio=0;us=tcp://127.0.0.1:8081|prio=10";
    let config = environment(text).unwrap();
    let [eu, us] = config.regions() else { panic!("{config:?}") };
    assert_eq!((eu.name.as_str(), eu.priority), ("eu", 0));
    assert_eq!(eu.endpoint, RegionEndpoint::Unix("/run/spire/agent.sock".into()));
    let health = eu.health.as_ref().unwrap();
    assert_eq!(
        (health.scheme, health.host.as_str(), health.port, health.path.as_str()),
        (Scheme::Https, "eu.example.org", 443, "/ready")
    );
    assert_eq!(us.endpoint.to_string(), "tcp://127.0.0.1:8081");
    assert_eq!((us.health.as_ref(), us.priority), (None, 10));
    // The mission's numbers.
    assert_eq!((config.interval, config.threshold, config.timeout), (secs(30), 3, secs(1)));
}

#[test]
fn the_variables_change_the_numbers() {
    let config =
        FailoverSettings::parse_environment("eu=unix:/run/a.sock", Some("500ms"), Some("5"), Some("200ms")).unwrap();
    assert_eq!((config.interval, config.threshold), (Duration::from_millis(500), 5));
    assert_eq!(config.timeout, Duration::from_millis(200));
    // A short interval alone takes the timeout along.
    let config = FailoverSettings::parse_environment("eu=unix:/run/a.sock", Some("500ms"), None, None).unwrap();
    assert_eq!(config.timeout, Duration::from_millis(500));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = "EU=unix://relative|prio=70000;us=http://host|ftp://x;;ap;eu=unix:///run/a|https://u@h/|https://h#f";
    let mistakes =
        FailoverSettings::parse_environment(text, Some("30"), Some("many"), Some("2h")).unwrap_err().to_string();
    for expected in [
        "X0T_SPIRE_REGIONS, region 1: `prio=70000` is no priority",
        "X0T_SPIRE_REGIONS, region 1 (EU): a region's name is",
        "X0T_SPIRE_REGIONS, region 1 (EU): `unix://relative` needs an absolute path",
        "X0T_SPIRE_REGIONS, region 2: `ftp://x` is neither",
        "X0T_SPIRE_REGIONS, region 2 (us): `http://host` is no Workload API endpoint",
        "X0T_SPIRE_REGIONS, region 3: `ap` is not NAME=ENDPOINT",
        "X0T_SPIRE_REGIONS, region 4: `https://h#f` says again",
        "X0T_FAILOVER_INTERVAL: `30` is no duration",
        "X0T_FAILOVER_THRESHOLD: `many` is no whole number",
        "X0T_FAILOVER_TIMEOUT: `2h` is not between",
    ] {
        assert!(mistakes.contains(expected), "`{expected}` is missing in:\n{mistakes}");
    }
}

#[test]
fn regions_that_cannot_stand_in_for_each_other_are_refused() {
    assert!(said(environment("")).contains("names no region"));
    assert!(said(environment("eu=unix:///a;eu=unix:///b")).contains("the name `eu` is given twice"));
    assert!(said(environment("eu=unix:///a;us=unix:/a")).contains("`eu` and `us` have the same endpoint unix:///a"));
    let many: Vec<String> = (0..17).map(|n| format!("r{n}=unix:///run/{n}")).collect();
    assert!(said(environment(&many.join(";"))).contains("names 17 regions, 16 are possible"));
    let long = format!("eu=unix:///{}", "a".repeat(20_000));
    assert!(said(environment(&long)).contains("16384 are possible"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    let with = |interval, threshold, timeout| {
        said(FailoverSettings::parse_environment("eu=unix:///a", interval, threshold, timeout))
    };
    assert!(with(Some("10s"), None, Some("11s")).contains("X0T_FAILOVER_TIMEOUT: 11s is longer than the interval"));
    assert!(with(None, Some("0"), None).contains("X0T_FAILOVER_THRESHOLD: 0 is not between 1 and 100"));
    assert!(with(Some("0s"), None, None).contains("X0T_FAILOVER_INTERVAL"));
    assert!(with(Some("99999999999999999999s"), None, None).contains("X0T_FAILOVER_INTERVAL"));
    assert!(with(Some("18446744073709551615h"), None, None).contains("X0T_FAILOVER_INTERVAL"));
}

#[test]
fn the_file_says_the_same_as_the_environment() {
    let file = r#"{
        "list": [
            {"name": "eu", "endpoint": "unix:///run/spire/agent.sock", "health": "https://eu.example.org/ready"},
            {"name": "us", "endpoint": "unix:///run/spire-us/agent.sock", "priority": 7}
        ],
        "interval": "10s", "threshold": 2, "timeout": "800ms"
    }"#;
    let settings: FailoverSettings = serde_json::from_str(file).unwrap();
    let text = "eu=unix:///run/spire/agent.sock|https://eu.example.org/ready;us=unix:///run/spire-us/agent.sock|prio=7";
    let environment = FailoverSettings::parse_environment(text, Some("10s"), Some("2"), Some("800ms")).unwrap();
    assert_eq!(settings.clone().into_config().unwrap(), environment);
    let again: FailoverSettings = serde_json::from_value(serde_json::to_value(&settings).unwrap()).unwrap();
    assert_eq!(again, settings);
    assert!(
        serde_json::from_str::<FailoverSettings>(r#"{"intervall": "10s"}"#).is_err(),
        "an unknown key is a mistake"
    );
}

#[test]
fn mistakes_in_the_file_name_its_keys() {
    let file = r#"{"list": [{"name": "e u", "endpoint": "unix://x"}, {"name": "us", "endpoint": "unix:///a", "health": "h"}],
                   "interval": "soon", "threshold": 1000, "timeout": "1s"}"#;
    let mistakes = said(serde_json::from_str::<FailoverSettings>(file).unwrap().into_config());
    for expected in [
        "regions.list[0] (e u): a region's name",
        "regions.list[0] (e u): `unix://x` needs",
        "regions.list[1] (us): `h` is no HTTP",
        "regions.interval: `soon`",
        "regions.threshold: 1000",
    ] {
        assert!(mistakes.contains(expected), "`{expected}` is missing in:\n{mistakes}");
    }
}

#[test]
fn wc_1_an_endpoint_is_an_absolute_socket_path_or_an_ip_address_with_a_port() {
    for good in ["unix:///run/a.sock", "unix:/run/a.sock", "tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:8000"]
    {
        RegionEndpoint::parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "",
        "/run/a.sock",
        "unix:",
        "unix://",
        "unix:a",
        "unix://host/run/a",
        "unix:///a?b",
        "unix:///a#b",
        "tcp://localhost:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:1/path",
        "tcp:127.0.0.1:1",
        "tcp://127.0.0.1:99999",
        "http://127.0.0.1:1",
    ] {
        assert!(RegionEndpoint::parse(bad).is_err(), "{bad}");
    }
    assert!(RegionEndpoint::parse(&format!("unix:///{}", "a".repeat(106))).is_ok());
    assert!(RegionEndpoint::parse(&format!("unix:///{}", "a".repeat(107))).is_err());
}

#[test]
fn keys_are_fetched_over_tcp_from_this_host_alone() {
    for elsewhere in [
        "tcp://192.0.2.1:8000",
        "tcp://0.0.0.0:8000",
        "tcp://[2001:db8::1]:1",
        "tcp://[::]:1",
        "tcp://[::ffff:10.0.0.1]:1",
    ] {
        let error = RegionEndpoint::parse(elsewhere).unwrap_err();
        assert!(error.contains("in clear") && error.contains("unix:///"), "{elsewhere}: {error}");
    }
    assert!(RegionEndpoint::parse("tcp://[::ffff:127.0.0.1]:1").is_ok());
}

#[test]
fn a_health_url_is_taken_apart() {
    let url = HealthUrl::parse("http://[::1]:8080").unwrap();
    assert_eq!(
        (url.host.as_str(), url.port, url.path.as_str(), url.authority().as_str()),
        ("::1", 8080, "/", "[::1]:8080")
    );
    let url = HealthUrl::parse("https://host?x=1").unwrap();
    assert_eq!((url.path.as_str(), url.to_string().as_str()), ("/?x=1", "https://host/?x=1"));
    for bad in [
        "https://",
        "https://:80",
        "https://h:99999",
        "https://h:",
        "https://u:p@h/",
        "https://h/#f",
        "https://h/ x",
        "https://[::1",
        "https://[x]/",
        "ftp://h",
        "h",
        "https://h\r\nX: y/",
        "https://ü/",
    ] {
        assert!(HealthUrl::parse(bad).is_err(), "{bad}");
    }
}

fn environment(regions: &str) -> Result<FailoverConfig, RegionMistakes> {
    FailoverSettings::parse_environment(regions, None, None, None)
}

fn said(result: Result<FailoverConfig, RegionMistakes>) -> String {
    result.unwrap_err().to_string()
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
