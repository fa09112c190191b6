//! Tables without lines: easy on the eye, on `grep` and on `awk`.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::Style;

/// Builds a table from a header and rows; columns named in `right` are numbers.
pub fn table(style: Style, header: &[&str], right: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match style {
        Style::Plain => table.force_no_tty(),
        Style::Colored => table.enforce_styling(),
    };
    table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    table.add_rows(rows);
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A cell in the colour of the state it names.
pub fn state(state: &str) -> Cell {
    let color = match state {
        "up" | "established" | "valid" | "direct" | "healthy" => Color::Green,
        "suspect" | "handshaking" | "draining" | "renewing" | "degraded" | "failing" => Color::Yellow,
        "down" | "unreachable" | "critical" | "expired" => Color::Red,
        _ => return Cell::new(state),
    };
    Cell::new(state).fg(color)
}
