//! Outer headers: whatever decodes is encoded back to the bytes it came from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_overlay::packet::{HandshakeHeader, PROTECTED_HEADER_LEN, ProtectedHeader, Retry};

fuzz_target!(|bytes: &[u8]| {
    let mut out = Vec::new();
    if let Ok(header) = HandshakeHeader::decode(bytes) {
        header.encode(&mut out);
        assert_eq!(out, bytes[..header.encoded_len()]);
    }
    if let Ok(retry) = Retry::decode(bytes) {
        out.clear();
        retry.encode(&mut out);
        assert_eq!(out, bytes);
    }
    if let Ok(header) = ProtectedHeader::decode(bytes) {
        assert_eq!(header.to_bytes(), bytes[..PROTECTED_HEADER_LEN]);
    }
});
