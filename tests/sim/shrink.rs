//! A failure with less around it: parts of the plan are left out as long as the same thing goes wrong.

use crate::invariants::Invariant;
use crate::mutants::Mutant;
use crate::plan::{Item, Plan};
use crate::world::{Report, live};
use std::time::{Duration, Instant};

/// What is left of `plan` when all is left out that need not be there for `invariant` to break, as far as `limit`
/// allows; and what comes of it.
pub(crate) fn shrink(
    plan: &Plan,
    mutant: Option<Mutant>,
    invariant: Invariant,
    limit: Duration,
) -> (Plan, Report) {
    let began = Instant::now();
    let breaks = |items: &[Item]| {
        let plan = Plan { items: items.to_vec(), ..*plan };
        let report = live(&plan, mutant, false);
        let same = report.violation.as_ref().is_some_and(|found| found.invariant == invariant);
        same.then_some((plan, report))
    };
    let mut best = breaks(&plan.items).expect("a seed determines all that happens");
    let end = best.1.ended;
    let before: Vec<Item> = plan.items.iter().filter(|item| item.at <= end).copied().collect();
    if let Some(found) = breaks(&before) {
        best = found;
    }
    let mut size = best.0.items.len().div_ceil(2);
    while size > 0 {
        let mut first = 0;
        while first < best.0.items.len() {
            if began.elapsed() > limit {
                return best;
            }
            let last = (first + size).min(best.0.items.len());
            let rest = [&best.0.items[..first], &best.0.items[last..]].concat();
            match breaks(&rest) {
                Some(found) => best = found,
                None => first = last,
            }
        }
        size /= 2;
    }
    best
}
