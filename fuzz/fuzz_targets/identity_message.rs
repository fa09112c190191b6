//! What joiners, nodes and authorities say to each other: whatever decodes is encoded back to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_identity::message::Message;
use x0t_identity::{AnchorProof, JoinToken};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode().expect("what decodes is within its bounds"), bytes);
    }
    if let Ok(proof) = AnchorProof::decode(bytes) {
        assert_eq!(proof.encode().expect("what decodes is within its bounds"), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<JoinToken>()
    {
        assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token));
    }
});
