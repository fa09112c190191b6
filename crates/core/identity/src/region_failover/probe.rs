//! What a check or a call says about a region.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a region does not count as well. A bounded set: these are values of a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckFailure {
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    NoAnswer,
    /// An answer, but later than the timeout.
    Slow,
    /// The health check says no: an HTTP status other than 2xx. Redirects are not followed and are a no.
    Status(u16),
    /// The answer is not HTTP.
    NotHttp,
    /// The certificate of the health check was not accepted, or TLS failed otherwise.
    Tls,
    /// The host name of the health check has no address.
    NameNotFound,
    /// No way there: the network or the socket file.
    Unreachable,
    /// A call ended with `UNAVAILABLE`.
    Unavailable,
    /// A call ended with `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// It answers, and has not renewed what it gave although that is overdue.
    NotRenewing,
}

impl std::fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("nothing listens there"),
            Self::NoAnswer => f.write_str("no answer in time"),
            Self::Slow => f.write_str("answered too late"),
            Self::Status(status) => write!(f, "health check answers {status}"),
            Self::NotHttp => f.write_str("health check does not speak HTTP"),
            Self::Tls => f.write_str("TLS to the health check failed"),
            Self::NameNotFound => f.write_str("host name has no address"),
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Unavailable => f.write_str("call ended with UNAVAILABLE"),
            Self::NotRenewing => f.write_str("answers, but renews no SVIDs"),
            Self::DeadlineExceeded => f.write_str("call ended with DEADLINE_EXCEEDED"),
        }
    }
}

/// What asking the health URL gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthAnswer {
    /// An HTTP answer with this status.
    Status(u16, Duration),
    /// A connection was made and no HTTP answer came of it: what is there hangs, or is something else. It is believed.
    Broken(CheckFailure),
    /// No connection: perhaps only the health check is switched off, as it is in SPIRE unless configured.
    NotThere(CheckFailure),
}

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The health check says yes, or there is none and the service accepts connections.
    Healthy {
        /// From the request to the answer.
        latency: Duration,
    },
    /// Reachable, degraded: the health check is not there, but the service accepts connections.
    Degraded {
        /// From the attempt to the connection.
        latency: Duration,
    },
    /// Neither.
    Failed(CheckFailure),
}

impl CheckOutcome {
    /// Weighs the two halves of a check, made at the same time: the health URL, if one is configured, and a connection to the
    /// service itself. Only a health check that is not there falls back to the connection; one that says no, or hangs, is
    /// believed, because a stopped process still accepts connections.
    pub fn weigh(health: Option<HealthAnswer>, connection: Result<Duration, CheckFailure>) -> Self {
        match (health, connection) {
            (Some(HealthAnswer::Status(200..=299, latency)), _) | (None, Ok(latency)) => Self::Healthy { latency },
            (Some(HealthAnswer::Status(status, _)), _) => Self::Failed(CheckFailure::Status(status)),
            (Some(HealthAnswer::Broken(failure)), _) => Self::Failed(failure),
            (Some(HealthAnswer::NotThere(_)), Ok(latency)) => Self::Degraded { latency },
            (Some(HealthAnswer::NotThere(_)) | None, Err(failure)) => Self::Failed(failure),
        }
    }

    /// An answer has to come in less than `timeout`.
    pub(super) fn judged(self, timeout: Duration) -> Self {
        match self {
            Self::Healthy { latency } | Self::Degraded { latency } if latency >= timeout => {
                Self::Failed(CheckFailure::Slow)
            }
            other => other,
        }
    }
}

/// How a call to the service went, as far as the choice of a region is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcOutcome {
    /// It succeeded.
    Ok {
        /// From the call to its first answer; absent where that says nothing, as for news on a stream.
        latency: Option<Duration>,
    },
    /// The service answered with a refusal (`PERMISSION_DENIED`, `INVALID_ARGUMENT`, `UNAUTHENTICATED`, …): another region
    /// would refuse as well.
    Refused,
    /// Transport error, `UNAVAILABLE` or `DEADLINE_EXCEEDED`.
    Unreachable(CheckFailure),
}
