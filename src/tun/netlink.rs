//! Addresses, routes and size of the device, set over rtnetlink(7).

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::{Params, TunError};
use crate::wire::packet::prefix::Prefix;

/// Routes so marked are ours in `ip route` ("proto static": set by an administrator, by means of a configuration).
const PROTOCOL: RouteProtocol = RouteProtocol::Static;

/// Sets MTU and addresses, brings the device up, and adds the routes.
pub(super) async fn set_up(index: u32, params: &Params) -> Result<(), TunError> {
    let (connection, handle, _messages) =
        rtnetlink::new_connection().map_err(|error| TunError::from_io("open a netlink socket".into(), error))?;
    let connection = tokio::spawn(connection);
    let result = set(&handle, index, params).await;
    connection.abort();
    result
}

async fn set(handle: &Handle, index: u32, params: &Params) -> Result<(), TunError> {
    let name = &params.name;
    let link = LinkUnspec::new_with_index(index).mtu(params.mtu.into()).up().build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .map_err(failed(|| format!("set {name} up with an MTU of {}", params.mtu)))?;
    for (address, network) in &params.addresses {
        let request = handle.address().add(index, *address, network.bits());
        request.execute().await.map_err(failed(|| format!("give {name} the address {address}/{}", network.bits())))?;
    }
    for route in &params.routes {
        add_route(handle, index, route).await.map_err(failed(|| format!("route {route} through {name}")))?;
    }
    Ok(())
}

async fn add_route(handle: &Handle, index: u32, route: &Prefix) -> Result<(), rtnetlink::Error> {
    let message = match route.address() {
        IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(v4, route.bits())
            .output_interface(index)
            .protocol(PROTOCOL)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(v6, route.bits())
            .output_interface(index)
            .protocol(PROTOCOL)
            .build(),
    };
    handle.route().add(message).execute().await
}

fn failed(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> TunError {
    move |error| {
        let error = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        TunError::from_io(what(), error)
    }
}
