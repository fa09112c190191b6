//! `x0t identity explain`.

use std::fmt::Write as _;

use x0t_workload::explain::Explanation;

use super::Context;
use crate::cli::IdentityAction;
use crate::exit::Exit;

/// Exit code 0 if the process gets an identity, 2 if it gets none.
pub async fn run(context: &Context, action: IdentityAction) -> anyhow::Result<Exit> {
    let IdentityAction::Explain { pid } = action;
    let explanation = context.client().explain(pid).await?;
    context.out.result(&explanation, |_| describe(&explanation))?;
    Ok(if explanation.given.is_empty() { Exit::Usage } else { Exit::Ok })
}

fn describe(explanation: &Explanation) -> String {
    let mut text = format!("process {}\n\nfound of it\n", explanation.pid);
    for selector in &explanation.selectors {
        let _ = writeln!(text, "  {selector}");
    }
    if explanation.given.is_empty() {
        text.push_str("\nit gets no identity\n");
    } else {
        text.push_str("\nit gets\n");
        for given in &explanation.given {
            let svid = given.not_after.map_or_else(|| "no SVID is issued yet".to_owned(), |_| "SVID issued".to_owned());
            let _ = writeln!(text, "  {}   (entry {}, {svid})", given.spiffe_id, given.entry);
        }
    }
    if explanation.entries == 0 {
        text.push_str(
            "\nthere is no entry for this node: `x0t entry create SPIFFE-ID --node NAME --selector unix:uid:1000`, on the authority's node, makes \
             one\n",
        );
    }
    for near in &explanation.near {
        let why = if near.expired {
            "has ended".to_owned()
        } else {
            let missing: Vec<&str> = near.missing.iter().map(x0t_identity::Selector::as_str).collect();
            format!("it is not {}", missing.join(", nor "))
        };
        let _ = writeln!(text, "\nnot {}: {why} (entry {})", near.spiffe_id, near.entry);
    }
    if let Some(reason) = &explanation.authority_unreachable {
        let _ = writeln!(text, "\nthe authority is not reached, so this may be old: {reason}");
    }
    text.trim_end().to_owned()
}
