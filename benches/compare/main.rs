//! The gate beside nginx and beside a bare proxy over the same libraries, the floor: mutual TLS on both legs,
//! keep-alive on both legs, logs on.
//!
//! Prints the CPU that each front spends per request, its memory and its start, for the same load against the
//! same backend. Run it by `benches/compare.sh`, which says what the environment variables below are for.

#![allow(
    clippy::disallowed_methods,
    reason = "the files are the machine's own, or the benchmark's"
)]

mod floor;
mod fronts;
mod load;

use std::time::Instant;

use anyhow::{Context, Result};

use self::fronts::{Bench, FLOOR, Front, NGINX, Running};
use self::load::Load;

const SMALL: &str = "/pods";
const BIG: &str = "/stats/summary";
const BIG_BYTES: usize = 100 * 1024;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments.first().map(String::as_str) {
        Some("floor") => runtime.block_on(floor::serve(&arguments[1..])),
        // CI compiles and runs every target; a measurement is made only when it is asked for.
        _ if arguments.iter().any(|argument| argument == "--bench") => runtime.block_on(compare()),
        _ => Ok(()),
    }
}

async fn compare() -> Result<()> {
    let rounds = number("BENCH_ROUNDS", 7)?;
    let requests = number("BENCH_REQUESTS", 100_000)?;
    let bench = Bench::new().await?;
    let fronts = bench.fronts()?;

    println!("start: from spawn to the first 200 over mutual TLS, ms, {rounds} times; memory: RSS, KiB");
    for front in &fronts {
        let (mut starts, mut idle, mut used) = (Vec::new(), 0, 0);
        for _ in 0..rounds {
            let running = bench.run(front)?;
            let began = Instant::now();
            let mut connection = bench.first_connection(running.address).await?;
            connection.exchange(SMALL).await?;
            starts.push(began.elapsed().as_secs_f64() * 1e3);
            idle = running.memory()?;
            for _ in 1..1000 {
                connection.exchange(SMALL).await?;
            }
            used = running.memory()?;
        }
        print_row(front.name, &starts);
        println!(
            "{:24} after the first request {idle} KiB, after 1,000 {used} KiB",
            ""
        );
    }

    let running: Vec<Running> = fronts
        .iter()
        .map(|front| bench.run(front))
        .collect::<Result<_>>()?;
    let mut loads = Vec::new();
    for front in &running {
        loads.push(Load::connect(&bench, front.address).await?);
    }
    for (what, path, requests) in [
        ("small answer (keep-alive)", SMALL, requests),
        ("100 KiB answer (keep-alive)", BIG, requests / 10),
    ] {
        let mut costs = vec![Vec::new(); fronts.len()];
        // One round to fill caches and pools, and then all fronts in turn, so that a
        // slow spell hits them all.
        for round in 0..=rounds {
            for (index, front) in running.iter().enumerate() {
                let cost = front.cost_of(requests, loads[index].run(path, requests)).await?;
                if round > 0 {
                    costs[index].push(cost);
                }
            }
        }
        print_table(&format!("{what}: {requests} requests a round"), &fronts, &costs);
    }
    drop(loads);

    let handshakes = requests / 50;
    let mut costs = vec![Vec::new(); fronts.len()];
    for _ in 0..rounds {
        for (index, front) in running.iter().enumerate() {
            costs[index].push(
                front
                    .cost_of(handshakes, bench.handshakes(front.address, handshakes))
                    .await?,
            );
        }
    }
    print_table(
        &format!("full mutual handshake and one request: {handshakes} a round"),
        &fronts,
        &costs,
    );
    Ok(())
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}

/// Prints the cost of each front, `costs[front][round]`, and what the gates cost divided
/// by the floor and by nginx.
fn print_table(what: &str, fronts: &[Front], costs: &[Vec<f64>]) {
    println!("{what}; CPU of the front, µs per request");
    let named = |name| fronts.iter().position(|front| front.name == name);
    for (front, costs) in fronts.iter().zip(costs) {
        print_row(front.name, costs);
    }
    for (gate, front) in fronts.iter().enumerate().filter(|(_, front)| front.is_gate) {
        for other in [FLOOR, NGINX].into_iter().filter_map(named) {
            // Both ran in the same rounds, so a slow spell is in both: the quotient of a round
            // is steadier than either.
            let ratios = costs[gate]
                .iter()
                .zip(&costs[other])
                .map(|(cost, other)| cost / other);
            let [lowest, median, highest] = spread(&ratios.collect::<Vec<_>>());
            let ratio = spread(&costs[gate])[0] / spread(&costs[other])[0];
            println!(
                "{} / {}: best by best {ratio:.2}; round by round median {median:.2}, {lowest:.2} to \
                 {highest:.2}",
                front.name, fronts[other].name
            );
        }
    }
}

/// Prints best, median and worst. Noise only ever adds, so the best is what a front costs.
fn print_row(name: &str, values: &[f64]) {
    let [best, median, worst] = spread(values);
    println!("{name:24} best {best:7.2}   median {median:7.2}   worst {worst:7.2}");
}

/// Least, median and greatest.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
