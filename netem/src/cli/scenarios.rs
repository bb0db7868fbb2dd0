//! `netem scenarios`: plays what was asked for, some at a time, and tells the outcomes as they come.

use super::args::ScenariosArgs;
use super::{Outcome as Ended, print};
use netem::scenario::{self, Outcome, Player, Scenario, Variant};
use netem::sys;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(super) fn run(args: &ScenariosArgs) -> Ended {
    let scenarios = Scenario::all(&args.directory, args.short)?;
    let wanted = |variant: &Variant| args.only.is_empty() || args.only.iter().any(|text| variant.name.contains(text));
    let variants: Vec<Variant> = scenarios.into_iter().flat_map(|s| s.variants).filter(|v| wanted(v)).collect();
    if variants.is_empty() {
        return Err("no scenario is called so".into());
    }
    if args.list {
        variants.iter().for_each(|variant| print(&variant.name));
        return Ok(ExitCode::SUCCESS);
    }
    if !sys::is_root() {
        variants.iter().for_each(|variant| print(&format!("SKIPPED: {}: needs root", variant.name)));
        return Ok(ExitCode::SUCCESS);
    }
    let player = Player {
        ghostwire: std::path::absolute(&args.ghostwire)?,
        netem: std::env::current_exe()?,
        output: std::path::absolute(&args.output)?,
        seed: args.seed,
    };
    sys::catch_termination();
    let outcomes = play_all(&player, &variants, args.jobs.unwrap_or(if args.short { 4 } else { 1 }));
    std::fs::create_dir_all(&player.output)?;
    std::fs::write(player.output.join("outcomes.json"), serde_json::to_string_pretty(&outcomes)?)?;
    std::fs::write(player.output.join("table.md"), scenario::table(&outcomes))?;
    if !args.short {
        print(&format!("\n{}", scenario::table(&outcomes)));
    }
    let good = outcomes.iter().all(|outcome| outcome.faults.is_empty()) && outcomes.len() == variants.len();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// In the order of `variants`; fewer when ended by a signal. The longest begin first, so that none is waited for alone.
fn play_all(player: &Player, variants: &[Variant], jobs: usize) -> Vec<Outcome> {
    let mut order: Vec<usize> = (0..variants.len()).collect();
    if jobs > 1 {
        order.sort_by_key(|index| std::cmp::Reverse(variants[*index].during));
    }
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, variants.len()) {
            scope.spawn(|| {
                while !sys::TERMINATED.load(Ordering::Relaxed) {
                    let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let variant = &variants[index];
                    let outcome = player.play(variant, &format!("s{}-{index}", std::process::id()));
                    print(&outcome.line());
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
