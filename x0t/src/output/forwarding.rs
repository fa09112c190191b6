//! What is forwarded and exposed, as text for people.

use comfy_table::Cell;
use x0t_netstack::forwarding::{ExposureView, ForwardView};

use super::Style;
use super::table::{state, table};

/// What `x0t forward list` shows.
pub fn forwards(forwards: &[ForwardView], style: Style) -> String {
    let row = |view: &ForwardView| {
        vec![
            Cell::new(view.forward.local()),
            Cell::new(&view.forward.to),
            state(if view.problem.is_some() { "down" } else { "up" }),
            Cell::new(view.connections),
            Cell::new(view.failed),
            Cell::new(view.problem.as_deref().unwrap_or(if view.is_kept { "saved" } else { "while it is held" })),
        ]
    };
    let header = ["LOCAL", "TO", "STATE", "CONNECTIONS", "FAILED", "REMARK"];
    table(style, &header, &["CONNECTIONS", "FAILED"], forwards.iter().map(row).collect())
}

/// What `x0t expose list` shows.
pub fn exposures(exposures: &[ExposureView], style: Style) -> String {
    let row = |view: &ExposureView| {
        let from = &view.exposure.from;
        vec![
            Cell::new(view.exposure.mesh_port()),
            Cell::new(format!("127.0.0.1:{}", view.exposure.to)),
            Cell::new(if from.is_empty() { "every node".to_owned() } else { from.join(", ") }),
            Cell::new(view.connections),
            Cell::new(view.failed),
        ]
    };
    let header = ["PORT", "TO", "FOR", "CONNECTIONS", "FAILED"];
    table(style, &header, &["CONNECTIONS", "FAILED"], exposures.iter().map(row).collect())
}
