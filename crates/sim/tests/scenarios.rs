//! Every story under `scenarios/` must come true.

use std::fs;
use std::path::Path;

#[test]
fn every_scenario_comes_true() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut stories: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    stories.sort();
    assert!(!stories.is_empty());
    let failures: Vec<String> = stories
        .iter()
        .filter_map(|path| {
            let error = x0t_sim::scenario::run(&fs::read_to_string(path).unwrap()).err()?;
            Some(format!("{}: {error}", path.file_name().unwrap().display()))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
