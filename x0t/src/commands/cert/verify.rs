//! A chain, judged, with every check.

use serde::Serialize;
use x0t_identity::validation::{
    Anchors, Certificate, Check, CheckKind, Depth, Expected, Limits, Options, PinSet, Pins, Place, PublicSuffixes,
    Purpose, Revocation, RevocationList, Standard, Status, TrustDomains, UnknownStatus, Validation, ValidationError,
    validate_peer, validate_svid,
};
use x0t_model::{SpiffeId, UnixTime, in_one_line};
use x0t_runtime::clock::Clock;

use super::inspect::date;
use super::{certificates, hex, read, revocation_lists};
use crate::cli::VerifyArgs;
use crate::commands::Context;
use crate::exit::{Exit, Failure};

/// The verdict, as `--json` shows it.
#[derive(Serialize)]
struct Verdict {
    valid: bool,
    /// Stable; absent if the chain is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    spiffe_id: Option<SpiffeId>,
    /// The last second in which all of the path is valid.
    not_after: Option<UnixTime>,
    /// `leaf`, `intermediate 1`, …, `anchor 0`.
    path: Vec<String>,
    pins: Vec<String>,
    checks: Vec<ShownCheck>,
}

#[derive(Serialize)]
struct ShownCheck {
    check: &'static str,
    of: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub fn verify(context: &Context, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let chain = certificates(&args.chain)?;
    let mut anchors = Vec::new();
    for file in &args.anchors {
        anchors.extend(certificates(file)?);
    }
    let mut crls = Vec::new();
    for file in &args.crls {
        crls.extend(revocation_lists(file)?);
    }
    let unusable = |error| Failure::new(Exit::Usage, "a revocation list cannot be read").because(error);
    let lists = crls.iter().map(|der| RevocationList::parse(der).map_err(unusable)).collect::<Result<Vec<_>, _>>()?;
    let unknown = if args.tolerate_unknown { UnknownStatus::Tolerate } else { UnknownStatus::Deny };
    let depth = if args.leaf_only { Depth::Leaf } else { Depth::Path };
    let pins = pins(args)?;
    let options = Options {
        now: args.at.map_or_else(|| Clock.wall(), UnixTime::from_secs),
        peer_time: None,
        limits: if args.names.is_empty() { Limits::SVID } else { Limits::WEB },
        revocation: (!lists.is_empty()).then_some(Revocation { crls: &lists, unknown, depth, ..Revocation::default() }),
        pins: pins.as_ref(),
        is_thorough: true,
    };
    let mut validation = judge(args, &chain, &anchors, &options)?;
    if let (Ok(path), Some(wanted)) = (&validation.result, &args.id)
        && let Some(found) = path.spiffe_id.as_ref().filter(|found| *found != wanted)
    {
        let error = ValidationError::WrongPeer { found: found.clone(), wanted: wanted.clone() };
        let status = Status::Failed(Box::new(error.clone()));
        validation.report.checks.push(Check { kind: CheckKind::PeerName, place: Some(Place::Leaf), status });
        validation.result = Err(error);
    }
    let verdict = Verdict::of(&validation);
    context.out.result(&verdict, |_| verdict.text())?;
    Ok(if verdict.valid { Exit::Ok } else { Exit::Denied })
}

fn judge(
    args: &VerifyArgs,
    chain: &[rustls_pki_types::CertificateDer<'_>],
    anchors: &[rustls_pki_types::CertificateDer<'_>],
    options: &Options<'_>,
) -> anyhow::Result<Validation> {
    let anchors = Anchors::new(anchors);
    if args.names.is_empty() {
        let mut trust = TrustDomains::default();
        let named = || {
            let leaf = Certificate::parse(chain.first()?).ok()?;
            let names = leaf.extensions().subject_alt_name?.value;
            names.uris().find_map(|uri| Some(uri.parse::<SpiffeId>().ok()?.trust_domain().clone()))
        };
        if let Some(domain) = args.trust_domain.clone().or_else(named) {
            trust.insert(domain, anchors);
        }
        return Ok(validate_svid(chain, &trust, options));
    }
    let suffixes = match &args.public_suffixes {
        Some(file) => Some(PublicSuffixes::parse(&String::from_utf8_lossy(&read(file)?))),
        None => None,
    };
    let expected = Expected {
        purpose: if args.client { Purpose::ClientAuth } else { Purpose::ServerAuth },
        names: &args.names,
        suffixes: suffixes.as_ref(),
        standard: if args.public { Standard::BaselineRequirements } else { Standard::Rfc5280 },
    };
    Ok(validate_peer(chain, &anchors, &expected, options))
}

fn pins(args: &VerifyArgs) -> Result<Option<Pins>, Failure> {
    if args.pins.is_empty() {
        return Ok(None);
    }
    let digest = |text: &String| {
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{text} is no pin")).next("take one that `x0t cert pin FILE` prints")
        })
    };
    let digests = args.pins.iter().map(digest).collect::<Result<Vec<_>, _>>()?;
    let set = PinSet::new(digests).map_err(|error| {
        Failure::new(Exit::Usage, "these are no pins")
            .because(error)
            .next("give --pin again, with the key that is kept elsewhere")
    })?;
    Ok(Some(Pins::for_all(set)))
}

impl Verdict {
    fn of(validation: &Validation) -> Self {
        let (path, error) = match &validation.result {
            Ok(path) => (Some(path), None),
            Err(error) => (None, Some(error)),
        };
        let checks = validation.report.checks.iter().map(|check| {
            let (status, error) = match &check.status {
                Status::Passed => ("passed", None),
                Status::Failed(error) => ("failed", Some(error)),
                Status::Tolerated(error) => ("tolerated", Some(error)),
                Status::NotAsked => ("not_asked", None),
                Status::NotReached => ("not_reached", None),
            };
            ShownCheck {
                check: check.kind.name(),
                of: check.place.map(|place| place.to_string()),
                status,
                code: error.map(|error| error.code()),
                detail: error.map(|error| in_one_line(error)),
            }
        });
        Self {
            valid: error.is_none(),
            code: error.map(ValidationError::code),
            error: error.map(|error| in_one_line(error)),
            spiffe_id: path.and_then(|path| path.spiffe_id.clone()),
            not_after: path.map(|path| path.not_after),
            path: path.iter().flat_map(|path| &path.places).map(ToString::to_string).collect(),
            pins: path.iter().flat_map(|path| &path.keys).map(|key| hex(key)).collect(),
            checks: checks.collect(),
        }
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = self.checks.iter().map(ShownCheck::text).collect();
        lines.push(String::new());
        match (&self.error, self.code) {
            (Some(error), Some(code)) => lines.push(format!("REFUSED ({code}): {error}")),
            _ => {
                let id = self.spiffe_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
                let until = self.not_after.map(|time| format!(", until {}", date(time))).unwrap_or_default();
                lines.push(format!("VALID{id}{until}, by {}", self.path.join(" < ")));
            }
        }
        lines.join("\n")
    }
}

impl ShownCheck {
    fn text(&self) -> String {
        let of = self.of.as_deref().unwrap_or("chain");
        let detail = self.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("{:<12} {:<16} {}{detail}", self.status.replace('_', " "), of, self.check)
    }
}
