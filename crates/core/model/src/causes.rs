//! An error and its causes as one line.

/// `error` with everything that caused it, outermost first, for a peer, a log or a person who will not see the chain.
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
