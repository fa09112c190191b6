//! Inner frames: whatever decodes is encoded back to the bytes it came from, but for runs of PADDING.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_overlay::frame::{self, Frame};

fuzz_target!(|bytes: &[u8]| {
    let _ = frame::sole_datagram(bytes);
    let mut rest = bytes;
    loop {
        let before = rest;
        let Ok(Some(frame)) = frame::next(&mut rest) else { return };
        let taken = &before[..before.len() - rest.len()];
        assert!(!taken.is_empty(), "a frame takes at least a byte");
        if frame != Frame::Padding {
            let mut out = Vec::new();
            frame.encode(&mut out);
            assert_eq!(out, taken);
        }
    }
});
