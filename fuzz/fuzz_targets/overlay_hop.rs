//! The hop header: whatever decodes is encoded back to the bytes it came from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_overlay::HopHeader;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hop) = HopHeader::decode(bytes) {
        assert_eq!(hop.to_bytes(), bytes);
    }
});
