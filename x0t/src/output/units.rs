//! Numbers with units, short enough for a column.

use x0t_model::UnixTime;

/// A round-trip time or cost given in microseconds, as milliseconds with three significant digits.
pub fn millis(micros: u64) -> String {
    let ms = micros as f64 / 1_000.0;
    match micros {
        0..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

/// A span of time given in milliseconds, in its one or two largest units.
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// The time of day, in UTC.
pub fn time_of_day(time: UnixTime) -> String {
    let second = time.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// How long ago something was, given in milliseconds.
pub fn ago(milliseconds: u64) -> String {
    if milliseconds < 1_000 { "now".to_owned() } else { format!("{} ago", span(milliseconds)) }
}

/// A count, with a letter for thousands, millions and so on.
pub fn count(number: u64) -> String {
    let scaled = |unit: f64| number as f64 / unit;
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{:.1}k", scaled(1e3)),
        10_000_000..10_000_000_000 => format!("{:.1}M", scaled(1e6)),
        _ => format!("{:.1}G", scaled(1e9)),
    }
}

/// A share given in thousandths.
pub fn permille(thousandths: u16) -> String {
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        assert_eq!(
            [millis(0), millis(840), millis(12_345), millis(1_234_567)],
            ["0.00 ms", "0.84 ms", "12.3 ms", "1235 ms"]
        );
        assert_eq!([span(7), span(59_999), span(60_000), span(5_400_000)], ["7 ms", "59 s", "1 min", "1 h 30 min"]);
        assert_eq!([span(3_599_000), span(90_000_000)], ["59 min 59 s", "1 d 1 h"]);
        assert_eq!([ago(999), ago(3_000)], ["now", "3 s ago"]);
        assert_eq!([count(9_999), count(12_345), count(12_345_678)], ["9999", "12.3k", "12.3M"]);
        assert_eq!(time_of_day(UnixTime::from_secs(1_800_000_000)), "08:00:00Z");
        assert_eq!([permille(0), permille(123)], ["0.0 %", "12.3 %"]);
    }
}
