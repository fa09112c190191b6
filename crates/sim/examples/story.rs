//! Runs stories from files: `cargo run -p x0t-sim --example story -- crates/sim/scenarios/partition.scenario`.

use std::process::ExitCode;

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn main() -> ExitCode {
    let mut failed = false;
    for path in std::env::args().skip(1) {
        let outcome = std::fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| x0t_sim::scenario::run(&text).map_err(|error| error.to_string()));
        match outcome {
            Ok(world) => println!("{path}: true, after {:?} and {} events", world.now(), world.handled()),
            Err(error) => {
                println!("{path}: {error}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
