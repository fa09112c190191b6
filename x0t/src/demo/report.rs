//! What the demo measured, as a table for people or as one JSON document.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::fault::{FaultReport, FaultState};
use super::stream::{INTERVAL, Totals};

/// Everything measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Layout of this document.
    pub version: u32,
    /// How many nodes.
    pub nodes: usize,
    /// How many links.
    pub links: usize,
    /// From the start of the first process until everybody reached everybody, milliseconds.
    pub formed_ms: f64,
    /// The packets from end to end.
    pub stream: StreamReport,
    /// Every fault.
    pub faults: Vec<FaultReport>,
    /// Over all faults.
    pub summary: Summary,
    /// Whether every fault was recovered from in time and everybody reaches everybody at the end.
    pub healed: bool,
    /// How long it all took, milliseconds.
    pub took_ms: f64,
}

/// The packets from end to end.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Time between two, milliseconds.
    pub interval_ms: u64,
    /// How many.
    #[serde(flatten)]
    pub totals: Totals,
    /// Their round-trip times, milliseconds.
    pub rtt_ms: Spread,
}

/// Over all faults, milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Fault to first notice.
    pub detected_ms: Spread,
    /// Fault to stream restored.
    pub restored_ms: Spread,
    /// Repair to everybody reaching everybody.
    pub healed_ms: Spread,
    /// Packets lost for each fault.
    pub lost: Spread,
}

/// A distribution. Percentiles by nearest rank; a value that could not be measured is not in it, but in `missing`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many values.
    pub count: usize,
    /// How many could not be measured.
    pub missing: usize,
    /// Half are at most this.
    pub p50: Option<f64>,
    /// 99 of 100 are at most this.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

impl Spread {
    /// Of values of which some could not be measured.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let (mut known, mut missing) = (Vec::new(), 0);
        values.into_iter().for_each(|value| value.map_or_else(|| missing += 1, |value| known.push(value)));
        known.sort_by(f64::total_cmp);
        let (p50, p99, max) = (percentile(&known, 50.0), percentile(&known, 99.0), known.last().copied());
        Self { count: known.len(), missing, p50, p99, max }
    }
}

/// The value that `percent` of the ascending `values` do not exceed, by nearest rank.
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

impl Summary {
    /// Over `faults`.
    pub fn of(faults: &[FaultReport]) -> Self {
        Self {
            detected_ms: Spread::of(faults.iter().map(|fault| fault.detected_ms)),
            restored_ms: Spread::of(faults.iter().map(|fault| fault.restored_ms)),
            healed_ms: Spread::of(faults.iter().map(|fault| fault.healed_ms)),
            lost: Spread::of(faults.iter().map(|fault| Some(fault.lost as f64))),
        }
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.faults.is_empty() {
            self.table().lines().for_each(|line| text += &format!("{}\n", line.trim_end()));
            text += "\n";
        }
        let Totals { sent, lost, .. } = self.stream.totals;
        let (formed, took) = (self.formed_ms / 1_000.0, self.took_ms / 1_000.0);
        text += &format!("{} nodes and {} links, all reached all after {formed:.1} s\n", self.nodes, self.links);
        text += &format!("stream    {sent} packets, one every {} ms, {lost} lost", INTERVAL.as_millis());
        text += &format!(", round trip p50 {} p99 {}\n", ms(self.stream.rtt_ms.p50), ms(self.stream.rtt_ms.p99));
        for (name, spread) in [
            ("detected", self.summary.detected_ms),
            ("restored", self.summary.restored_ms),
            ("healed", self.summary.healed_ms),
        ] {
            if spread.count > 0 {
                text += &format!("{name:<9} p50 {} p99 {} max {}", ms(spread.p50), ms(spread.p99), ms(spread.max));
                text += &if spread.missing > 0 { format!(" ({} never)\n", spread.missing) } else { "\n".to_owned() };
            }
        }
        let verdict = if self.healed { "everything healed: all reach all" } else { "NOT everything healed" };
        text + &format!("{verdict}, {took:.1} s")
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["#", "fault", "detected", "restored", "lost", "old path → new path", "healed"]);
        for index in [0, 2, 3, 4, 6] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for fault in &self.faults {
            let healed = if fault.state == FaultState::Failed { "FAILED".to_owned() } else { ms(fault.healed_ms) };
            let detected = match &fault.detected_by {
                Some(observer) => format!("{} by {observer}", ms(fault.detected_ms)),
                None => ms(None),
            };
            table.add_row([
                fault.number.to_string(),
                fault.text.clone(),
                detected,
                ms(fault.restored_ms),
                fault.lost.to_string(),
                format!("{} → {}", fault.old_path.join("·"), fault.new_path.join("·")),
                healed,
            ]);
        }
        table
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(
        || "never".to_owned(),
        |value| if value < 100.0 { format!("{value:.1} ms") } else { format!("{value:.0} ms") },
    )
}

#[cfg(test)]
mod tests {
    use super::super::fault::FaultKind;
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=30).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(15.0));
        assert_eq!(percentile(&values, 99.0), Some(30.0));
        assert_eq!(percentile(&[7.0], 1.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn what_could_not_be_measured_is_not_averaged_away() {
        let spread = Spread::of([Some(3.0), None, Some(1.0)]);
        assert_eq!(spread, Spread { count: 2, missing: 1, p50: Some(1.0), p99: Some(3.0), max: Some(3.0) });
    }

    fn report() -> Report {
        let path = |names: &str| names.chars().map(String::from).collect::<Vec<_>>();
        let fault = FaultReport {
            number: 1,
            kind: FaultKind::Kill,
            target: "relay b".into(),
            text: "kill relay b".into(),
            at_ms: 5_000,
            state: FaultState::Healed,
            lost: 5,
            lost_while_healing: 0,
            detected_ms: Some(47.2),
            detected_by: Some("a".into()),
            restored_ms: Some(52.4),
            healed_ms: Some(812.0),
            old_path: path("abdf"),
            new_path: path("acdf"),
        };
        let lost_for_good =
            FaultReport { number: 2, state: FaultState::Failed, restored_ms: None, healed_ms: None, ..fault.clone() };
        let faults = vec![fault, lost_for_good];
        Report {
            version: 1,
            nodes: 6,
            links: 8,
            formed_ms: 2_100.0,
            stream: StreamReport {
                interval_ms: 10,
                totals: Totals { sent: 2_000, answered: 1_995, lost: 5 },
                rtt_ms: Spread::of([Some(0.9)]),
            },
            summary: Summary::of(&faults),
            faults,
            healed: false,
            took_ms: 20_500.0,
        }
    }

    #[test]
    fn the_table_names_what_failed() {
        let text = report().text();
        for part in [
            "kill relay b",
            "47.2 ms by a",
            "a·b·d·f → a·c·d·f",
            "812 ms",
            "FAILED",
            "(1 never)",
            "NOT everything healed, 20.5 s",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_document_is_flat_where_it_matters() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(value["stream"]["sent"], 2_000);
        assert_eq!(value["faults"][0]["kind"], "kill");
        assert_eq!(value["faults"][1]["restored_ms"], serde_json::Value::Null);
        assert_eq!(value["summary"]["restored_ms"]["missing"], 1);
    }
}
