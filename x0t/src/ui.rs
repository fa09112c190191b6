//! The live page, built into the program: no file to install, no network to load it from.

use x0t_runtime::http::Asset;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Everything that `GET /` leads to.
pub const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", bytes: include_bytes!("../ui/index.html") },
    Asset { path: "/style.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("../ui/style.css") },
    Asset { path: "/app.js", content_type: JAVASCRIPT, bytes: include_bytes!("../ui/app.js") },
    Asset { path: "/panels.js", content_type: JAVASCRIPT, bytes: include_bytes!("../ui/panels.js") },
    Asset { path: "/topology.js", content_type: JAVASCRIPT, bytes: include_bytes!("../ui/topology.js") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", bytes: include_bytes!("../ui/icon.svg") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/ui");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
            assert!(ASSETS.iter().any(|asset| asset.path == path), "{path}");
        }
    }
}
