//! `ghostwire iface` and `ghostwire dump`: what raw links could use, and what arrives for them.

use anyhow::Context as _;

use crate::admin::table::{Align, Table};
use crate::cli::Streams;
use crate::cli::args::Dump;
use crate::transport::raw::path::{self, Interface};
use crate::transport::raw::{self, Watch};

/// Lists interfaces with their addresses and the routers behind them.
pub(super) fn list(streams: &mut Streams<'_>) -> anyhow::Result<()> {
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    let (interfaces, addresses, gateways) = runtime.block_on(async {
        anyhow::Ok((path::interfaces().await?, path::addresses().await?, path::gateways().await?))
    })?;
    let mut table =
        Table::new(&[Align::Left, Align::Left, Align::Right, Align::Left, Align::Left, Align::Left, Align::Left]);
    table.row(["INTERFACE", "STATE", "MTU", "MAC", "ADDRESS", "GATEWAY", "GATEWAY MAC"]);
    for Interface { index, name, mtu, mac, up } in interfaces {
        let own: Vec<_> = addresses.iter().filter(|(of, _)| *of == index).map(|(_, ip)| ip).collect();
        let routers: Vec<_> = gateways.iter().filter(|gateway| gateway.interface == index).collect();
        for line in 0..own.len().max(routers.len()).max(1) {
            let router = routers.get(line);
            let first = |text: String| if line == 0 { text } else { String::new() };
            table.row([
                first(name.clone()),
                first(if up { "up".into() } else { "down".into() }),
                first(mtu.to_string()),
                first(mac.map_or_else(|| "none".into(), |mac| mac.to_string())),
                own.get(line).map_or_else(String::new, ToString::to_string),
                router.map_or_else(String::new, |router| router.address.to_string()),
                router.and_then(|router| router.mac).map_or_else(String::new, |mac| mac.to_string()),
            ]);
        }
    }
    streams.out.write_all(table.render("").as_bytes())?;
    Ok(streams.out.flush()?)
}

/// Shows TCP segments that arrive on a port, as many as asked for, or until interrupted.
pub(super) fn dump(args: &Dump, streams: &mut Streams<'_>) -> anyhow::Result<()> {
    raw::check_privileges()?;
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    runtime.block_on(async {
        let index = match &args.interface {
            Some(name) => {
                let all = path::interfaces().await?;
                let found = all.iter().find(|interface| interface.name == *name);
                Some(found.with_context(|| format!("there is no interface {name}"))?.index)
            }
            None => None,
        };
        let mut watch = Watch::open(index, args.port)?;
        writeln!(streams.err, "watching TCP to port {}", args.port)?;
        let mut interrupted = std::pin::pin!(crate::runtime::signal::terminated());
        let mut shown = 0;
        while args.count.is_none_or(|count| shown < count) {
            let line = tokio::select! {
                line = watch.next() => line?,
                () = &mut interrupted => break,
            };
            writeln!(streams.out, "{line}")?;
            streams.out.flush()?;
            shown += 1;
        }
        Ok(())
    })
}
