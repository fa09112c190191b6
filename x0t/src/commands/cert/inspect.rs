//! What certificates say.

use std::path::{Path, PathBuf};

use serde::Serialize;
use x0t_identity::validation::{Certificate, DerError, GeneralName};
use x0t_model::UnixTime;

use super::{certificates, hex};
use crate::commands::Context;
use crate::exit::{Exit, Failure};

/// One certificate, as `--json` shows it.
#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    subject: String,
    issuer: String,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
    key: &'static str,
    signature: &'static str,
    names: Vec<String>,
    is_ca: bool,
    path_len: Option<u8>,
    key_usage: Vec<&'static str>,
    subject_key_id: Option<String>,
    authority_key_id: Option<String>,
    ocsp: Vec<String>,
    crls: Vec<String>,
    must_staple: bool,
    pin: String,
}

impl Shown {
    fn of(file: &Path, certificate: &Certificate<'_>) -> Self {
        let extensions = certificate.extensions();
        let names = extensions.subject_alt_name.map(|names| names.value);
        let points = extensions.crl_distribution_points.map(|points| points.value);
        let access = extensions.authority_info_access.map(|access| access.value);
        let constraints = extensions.basic_constraints.map(|constraints| constraints.value);
        let full_names = points.iter().flat_map(|points| points.iter()).filter_map(|point| point.full_name);
        Self {
            file: file.to_owned(),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: hex(certificate.serial()),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            key: certificate.key_name(),
            signature: certificate.signature_name(),
            names: names.iter().flat_map(|names| names.iter()).map(|name| text(&name)).collect(),
            is_ca: extensions.is_ca(),
            path_len: constraints.and_then(|constraints| constraints.path_len),
            key_usage: extensions.key_usage.iter().flat_map(|usage| usage.value.names()).collect(),
            subject_key_id: extensions.subject_key_id.map(|id| hex(id.value)),
            authority_key_id: extensions.authority_key_id.and_then(|id| id.value.key_id).map(hex),
            ocsp: access.iter().flat_map(|access| access.ocsp_uris()).map(str::to_owned).collect(),
            crls: full_names.flat_map(|names| names.uris().collect::<Vec<_>>()).map(str::to_owned).collect(),
            must_staple: extensions.must_staple,
            pin: hex(&certificate.public_key_digest()),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{}", self.file.display())];
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                lines.push(format!("  {name:<12}{value}"));
            }
        };
        line("subject", &self.subject);
        line("issuer", &self.issuer);
        line("serial", &self.serial);
        line("valid", &format!("{} to {}", date(self.not_before), date(self.not_after)));
        line("key", self.key);
        line("signed", self.signature);
        line("names", &self.names.join("\n              "));
        let path_len = self.path_len.map(|len| format!(", path length {len}")).unwrap_or_default();
        line("authority", &if self.is_ca { format!("yes{path_len}") } else { "no".to_owned() });
        line("usage", &self.key_usage.join(", "));
        line("ocsp", &self.ocsp.join(", "));
        line("crls", &self.crls.join(", "));
        line("pin", &self.pin);
        lines.join("\n")
    }
}

pub fn inspect(context: &Context, files: &[PathBuf]) -> anyhow::Result<Exit> {
    let shown = all(files, Shown::of)?;
    context.out.result(&shown, |_| shown.iter().map(Shown::text).collect::<Vec<_>>().join("\n\n"))?;
    Ok(Exit::Ok)
}

/// One pin, as `--json` shows it.
#[derive(Serialize)]
struct Pin {
    file: PathBuf,
    subject: String,
    pin: String,
}

pub fn pin(context: &Context, files: &[PathBuf]) -> anyhow::Result<Exit> {
    let pins = all(files, |file, certificate| Pin {
        file: file.to_owned(),
        subject: certificate.subject().to_string(),
        pin: hex(&certificate.public_key_digest()),
    })?;
    context.out.result(&pins, |_| {
        pins.iter().map(|pin| format!("{}  {}", pin.pin, pin.subject)).collect::<Vec<_>>().join("\n")
    })?;
    let first = pins.first().map(|pin| &pin.pin);
    if pins.iter().all(|pin| Some(&pin.pin) == first) {
        context.out.warn("one pin alone locks everybody out when its key is lost: pin a backup key as well");
    }
    Ok(Exit::Ok)
}

fn all<T>(files: &[PathBuf], of: impl Fn(&Path, &Certificate<'_>) -> T) -> anyhow::Result<Vec<T>> {
    let mut shown = Vec::new();
    for file in files {
        for (at, der) in certificates(file)?.iter().enumerate() {
            let failure = |error: DerError| {
                Failure::new(Exit::Error, format!("certificate {} of {} is malformed", at + 1, file.display()))
                    .because(error)
            };
            shown.push(of(file, &Certificate::parse(der).map_err(failure)?));
        }
    }
    Ok(shown)
}

fn text(name: &GeneralName<'_>) -> String {
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    match name {
        GeneralName::Email(email) => format!("mail:{}", printable(email)),
        GeneralName::Dns(name) => format!("dns:{}", printable(name)),
        GeneralName::Directory(name) => format!("dir:{name}"),
        GeneralName::Uri(uri) => format!("uri:{}", printable(uri)),
        GeneralName::Ip(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => format!("ip:{}", std::net::Ipv4Addr::from(four)),
            (_, Ok(sixteen)) => format!("ip:{}", std::net::Ipv6Addr::from(sixteen)),
            _ => format!("ip:{}", hex(bytes)),
        },
        GeneralName::Other(kind) => format!("other:{kind}"),
    }
}

/// `YYYY-MM-DDThh:mm:ssZ`.
pub fn date(time: UnixTime) -> String {
    let (days, second) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    // The civil calendar in eras of 400 years that begin on 1 March.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + late;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_795_262_400, "2026-11-21T12:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(UnixTime::from_secs(seconds)), text);
        }
    }
}
