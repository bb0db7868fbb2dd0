//! Giving up what is not needed once everything is bound: another user, no capabilities but a few of the network, and no
//! way to get them back (capabilities(7), `PR_SET_NO_NEW_PRIVS`).

use std::ffi::CString;

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{self, Uid, User};

use crate::config::Image;

/// What a site of this configuration needs after its start. A port below 1024 may be in the next version of the file;
/// devices, routes and crafted packets are needed only where they are asked for.
pub fn needed(image: &Image) -> Vec<Capability> {
    let mut needed = vec![Capability::CAP_NET_BIND_SERVICE];
    if image.has("tun") || image.says("raw://") {
        needed.extend([Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW]);
    }
    needed
}

/// Becomes `user`, with that user's groups, and keeps of the capabilities `keep` alone. To be called while the process has
/// one thread: capabilities belong to threads.
///
/// # Errors
/// This process may not become it.
pub fn become_user(user: &User, keep: &[Capability]) -> anyhow::Result<()> {
    let name = &user.name;
    if Uid::effective() == user.uid {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        bail!("daemon.user: only root can become \"{name}\"");
    }
    let login = CString::new(user.name.as_str()).context("daemon.user")?;
    let groups = unistd::getgrouplist(&login, user.gid).context("daemon.user: its groups")?;
    let permitted = caps::read(None, CapSet::Permitted).context("capabilities")?;
    let keep: CapsHashSet = keep.iter().copied().filter(|one| permitted.contains(one)).collect();
    // Without this the change of the user takes all of them.
    prctl::set_keepcaps(true).context("capabilities")?;
    unistd::setgroups(&groups).with_context(|| format!("cannot take the groups of {name}"))?;
    unistd::setresgid(user.gid, user.gid, user.gid).with_context(|| format!("cannot take the group of {name}"))?;
    unistd::setresuid(user.uid, user.uid, user.uid).with_context(|| format!("cannot become {name}"))?;
    caps::set(None, CapSet::Effective, &keep).context("capabilities")?;
    // Of programs that are started, `nft` alone, to take back the rules that it made.
    let admin = Some(Capability::CAP_NET_ADMIN).filter(|one| keep.contains(one));
    let passed: CapsHashSet = admin.into_iter().collect();
    caps::set(None, CapSet::Inheritable, &passed).context("capabilities")?;
    caps::set(None, CapSet::Permitted, &keep).context("capabilities")?;
    caps::set(None, CapSet::Ambient, &passed).context("capabilities")?;
    prctl::set_no_new_privs().context("capabilities")?;
    tracing::info!(user = user.name, uid = user.uid.as_raw(), "privileges dropped");
    Ok(())
}

/// The user with this name or number.
///
/// # Errors
/// There is none.
pub fn find(name: &str) -> anyhow::Result<User> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    found.context("daemon.user")?.with_context(|| format!("daemon.user: there is no user \"{name}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_kept_for_what_the_file_asks_for() {
        let net = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
        let of = |text: &str| needed(&Image::of(text));
        assert_eq!(of("[[uplink]]\nconnect = [\"quic://a\"]\n[raw]\nflags = [\"PA\"]\n"), net[..1]);
        for text in [
            "[tun]\naddress = [\"10.0.0.1/24\"]\n",
            "[[listen]]\nurl = \"raw://0.0.0.0:9000\"\n",
            "[[uplink]]\nconnect = [\"quic://a\", \"raw://a\"]\n",
            "[[uplink]]\nconnect = [\"quic://a\", { url = \"raw://a\", verify = \"none\" }]\n",
            "[[uplink]]\nconnect = [{ url = \"quic://a\", verify = \"none\" }, \"raw://a\"]\n",
        ] {
            assert_eq!(of(text), net, "{text}");
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let (named, numbered) = (find("root").unwrap(), find("0").unwrap());
        assert_eq!((named.uid, named.name), (numbered.uid, numbered.name));
        let error = find("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("\"no-such-user-here\""), "{error}");
    }
}
