//! What came out: a table for people, JSON for programs, and how it compares with a baseline.

use serde::{Deserialize, Serialize};

use crate::{BenchError, Row, Samples};

/// What a forged packet may cost beyond a bare receive, in nanoseconds.
const FORGERY_GOAL_NANOS: f64 = 500.0;

/// Everything that was measured in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The rows, in the order of [`Row::DATA_PLANE`] or [`Row::IDENTITY`].
    pub rows: Vec<Measured>,
}

/// One cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// [`Row::name`].
    pub name: String,
    /// Nanoseconds of processor time, on this machine.
    pub nanos: f64,
    /// Relative to its reference in the same run; absent for a reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// How many batches it is the tenth percentile of.
    pub batches: usize,
}

impl Report {
    /// What the samples say.
    ///
    /// # Errors
    /// If a row or its reference was not measured.
    pub(crate) fn of(rows: &[Row], samples: &Samples) -> Result<Self, BenchError> {
        let nanos = |row: Row| {
            let missing = || BenchError::Session(format!("`{}` was not measured", row.name()));
            samples.undisturbed(row).filter(|nanos| *nanos > 0.0).ok_or_else(missing)
        };
        let measured = |row: &Row| {
            let ratio =
                row.reference().map(|reference| Ok::<f64, BenchError>(nanos(*row)? / nanos(reference)?)).transpose()?;
            Ok(Measured { name: row.name().to_owned(), nanos: nanos(*row)?, ratio, batches: samples.batches(*row) })
        };
        Ok(Self { rows: rows.iter().map(measured).collect::<Result<_, BenchError>>()? })
    }

    fn nanos(&self, row: Row) -> Option<f64> {
        self.rows.iter().find(|measured| measured.name == row.name()).map(|measured| measured.nanos)
    }

    /// The ratio of a row; `None` for a reference and for what was not measured.
    pub fn ratio(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|measured| measured.name == name)?.ratio
    }

    /// The report without what is true of this machine only: what is committed as a baseline.
    pub fn baseline(&self) -> Baseline {
        let ratios = self.rows.iter().filter_map(|measured| Some((measured.name.clone(), measured.ratio?)));
        // Three digits: the others are noise, and would make every refreshed baseline a diff of all lines.
        Baseline { ratios: ratios.map(|(name, ratio)| (name, (ratio * 1e3).round() / 1e3)).collect() }
    }

    /// The table, one row a line.
    pub fn table(&self) -> String {
        let is_identity = self.nanos(Row::JwtMint).is_some();
        let unit = if is_identity { "per token" } else { "per datagram" };
        let mut text = format!("{unit:<50} {:>12} {:>10}\n", "ns", "ratio");
        let mut goals = String::new();
        for measured in &self.rows {
            let row = Row::DATA_PLANE.iter().chain(&Row::IDENTITY).find(|row| row.name() == measured.name);
            let title = row.map_or(&*measured.name, |row| row.title());
            let ratio = measured.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            text += &format!("{title:<50} {:>12.1} {ratio:>10}\n", measured.nanos);
            if let Some(goal) = row.and_then(|row| row.per_second_goal()) {
                goals += &format!("\n{title}: {:.0} a second; the goal is {goal:.0}.", 1e9 / measured.nanos);
            }
        }
        if is_identity {
            return text + "Ratios are to the signature, the verification, and the hash." + &goals;
        }
        text += "Ratios are to the AES-256-GCM reference; that of the received forgery is to the bare UDP receive.";
        if let (Some(bare), Some(forged)) = (self.nanos(Row::UdpReceive), self.nanos(Row::ForgedReceive)) {
            text += &format!(
                "\nA forged packet costs {:.0} ns more than a bare receive; the goal is at most {FORGERY_GOAL_NANOS:.0}.",
                forged - bare
            );
        }
        text
    }
}

/// Ratios of an earlier run, by [`Row::name`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Cost relative to its reference.
    pub ratios: std::collections::BTreeMap<String, f64>,
}

impl Baseline {
    /// Holds a report against this baseline. A ratio may be larger by `factor`; a row that the baseline has must be there.
    pub fn compare(&self, report: &Report, factor: f64) -> Comparison {
        let verdict = |(name, before): (&String, &f64)| {
            let after = report.ratio(name);
            let worse = after.is_none_or(|after| after > before * factor);
            Verdict { name: name.clone(), before: *before, after, worse }
        };
        Comparison { factor, verdicts: self.ratios.iter().map(verdict).collect() }
    }
}

/// A report against a baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How much larger a ratio may be.
    pub factor: f64,
    /// One for each ratio of the baseline.
    pub verdicts: Vec<Verdict>,
}

/// One ratio, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// [`Row::name`].
    pub name: String,
    /// In the baseline.
    pub before: f64,
    /// In the report; `None` if it was not measured.
    pub after: Option<f64>,
    /// Whether it is beyond the allowed factor, or was not measured.
    pub worse: bool,
}

impl Comparison {
    /// Whether any ratio is beyond the allowed factor.
    pub fn is_worse(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.worse)
    }

    /// The table, one ratio a line.
    pub fn table(&self) -> String {
        let mut text = format!("{:<20} {:>10} {:>10} {:>8}\n", "ratio", "baseline", "now", "change");
        for Verdict { name, before, after, worse } in &self.verdicts {
            let mark = if *worse { "  worse" } else { "" };
            text += &match after {
                Some(after) => format!("{name:<20} {before:>10.2} {after:>10.2} {:>7.2}x{mark}\n", after / before),
                None => format!("{name:<20} {before:>10.2} {:>10} {:>8}{mark}\n", "-", ""),
            };
        }
        text + &format!("A ratio may be {}x its baseline.", self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seal: f64, next_hop: f64) -> Report {
        let row = |name: &str, ratio| Measured { name: name.to_owned(), nanos: 100.0, ratio, batches: 3 };
        Report {
            rows: vec![
                row("aes_256_gcm_seal_1400", None),
                row("seal", Some(seal)),
                row("next_hop_1000", Some(next_hop)),
            ],
        }
    }

    #[test]
    fn only_a_ratio_beyond_the_factor_is_worse_and_a_missing_one_is_too() {
        let baseline = report(1.2, 0.2).baseline();
        assert!(!baseline.compare(&report(1.7, 0.1), 1.5).is_worse());
        let comparison = baseline.compare(&report(1.9, 0.1), 1.5);
        assert!(comparison.is_worse());
        assert_eq!(
            comparison.verdicts.iter().filter(|verdict| verdict.worse).map(|v| &*v.name).collect::<Vec<_>>(),
            ["seal"]
        );
        let missing = Report { rows: Vec::new() };
        assert!(baseline.compare(&missing, 100.0).verdicts.iter().all(|verdict| verdict.worse));
    }

    #[test]
    fn a_baseline_holds_ratios_only_and_survives_being_stored() {
        let baseline = report(1.23456, 0.2).baseline();
        let stored = serde_json::to_string(&baseline).unwrap();
        assert_eq!(stored, r#"{"ratios":{"next_hop_1000":0.2,"seal":1.235}}"#);
        assert_eq!(serde_json::from_str::<Baseline>(&stored).unwrap(), baseline);
    }
}
