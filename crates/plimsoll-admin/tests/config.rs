//! What is wrong with the settings, in words.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::{Control, ControlConfig, ControlError};
use plimsoll_core::{Lifecycle, Registry};
use std::{error::Error, net::SocketAddr, net::TcpListener};
use support::{any_port, get};

const TOKEN: &str = "0123456789abcdef";

fn start(config: ControlConfig) -> Result<Control, ControlError> {
    Control::start(config, Registry::new(), Lifecycle::new(), None)
}

fn at(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

fn config() -> ControlConfig {
    ControlConfig::new().admin_addr(any_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named_with_a_remedy() {
    let table = [
        (
            config().admin_addr(at("0.0.0.0:8081")),
            "`admin_addr` is 0.0.0.0:8081, but must be on a loopback address where there is no token; \
             `probe_addr` is with_admin, but must be another address than admin_addr, unless that \
             is on loopback, or off",
        ),
        (
            config().admin_addr(at("[::]:0")),
            "`admin_addr` is [::]:0, but must be on a loopback address where there is no token; \
             `probe_addr` is with_admin, but must be another address than admin_addr, unless that \
             is on loopback, or off",
        ),
        (
            config().admin_addr(at("0.0.0.0:8081")).token(TOKEN),
            "`probe_addr` is with_admin, but must be another address than admin_addr, unless that is \
             on loopback, or off",
        ),
        (
            config()
                .admin_addr(at("10.0.0.1:1"))
                .probe_addr(at("10.0.0.1:1"))
                .token(TOKEN),
            "`probe_addr` is 10.0.0.1:1, but must be another address than admin_addr, unless that is \
             on loopback, or off",
        ),
        (
            config().token(""),
            "`token` is ***, but must be of 16 to 256 bytes, not 0: set a random one of 32, say",
        ),
        (
            config().token("0123456789abcde"),
            "`token` is ***, but must be of 16 to 256 bytes, not 15: set a random one of 32, say",
        ),
        (
            config().token("x".repeat(257)),
            "`token` is ***, but must be of 16 to 256 bytes, not 257: set a random one of 32, say",
        ),
        (
            config().token("0123456789abcdef\n"),
            "`token` is ***, but must be of visible ASCII characters, without spaces: see that it is \
             read without its line end",
        ),
        (
            config().token("0123456789 abcdef"),
            "`token` is ***, but must be of visible ASCII characters, without spaces: see that it is \
             read without its line end",
        ),
        (
            config().token("0123456789abcdeé"),
            "`token` is ***, but must be of visible ASCII characters, without spaces: see that it is \
             read without its line end",
        ),
        (
            config().allow_host("https://ops.internal"),
            "`allow_host` is https://ops.internal, but must be like \"ops.internal:8081\", which \"https://ops.internal\" is not",
        ),
        (
            config().allow_host("*"),
            "`allow_host` is *, but must be like \"ops.internal:8081\", which \"*\" is not",
        ),
        (
            config().allow_origin("ops.internal"),
            "`allow_origin` is ops.internal, but must be like \"https://ops.internal\", which \"ops.internal\" is not",
        ),
        (
            config().allow_origin("https://ops.internal/"),
            "`allow_origin` is https://ops.internal/, but must be like \"https://ops.internal\", which \"https://ops.internal/\" is not",
        ),
        (
            config().allow_origin("null"),
            "`allow_origin` is null, but must be like \"https://ops.internal\", which \"null\" is not",
        ),
    ];
    for (config, want) in table {
        let error = start(config).unwrap_err();
        assert_eq!(error.to_string(), want);
        let ControlError::Invalid(invalid) = error else {
            panic!("{error:?}");
        };
        assert_eq!(invalid.problems().len(), want.split("; ").count());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn right_settings_are_taken() {
    // Not every machine has IPv6.
    let v6 = at("[::1]:0");
    let loopback = if TcpListener::bind(v6).is_ok() {
        v6
    } else {
        eprintln!("skipped: {v6} cannot be bound here");
        any_port()
    };
    for config in [
        config().token(TOKEN),
        config().token("~".repeat(256)),
        config().admin_addr(at("0.0.0.0:0")).token(TOKEN).no_probe(),
        config()
            .admin_addr(at("0.0.0.0:0"))
            .token(TOKEN)
            .probe_addr(any_port()),
        config().admin_addr(loopback),
        config().no_admin().probe_addr(at("0.0.0.0:0")),
        config().no_admin().no_probe(),
        config().allow_host("OPS.internal").allow_host("[::1]:8081"),
        config().allow_origin("https://ops.internal:8443"),
    ] {
        let shown = format!("{config:?}");
        let control = start(config).unwrap_or_else(|error| panic!("{shown}: {error}"));
        control.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_told_with_listener_address_and_remedy() {
    let taken = TcpListener::bind(any_port()).unwrap();
    let addr = taken.local_addr().unwrap();
    for (config, listener, field) in [
        (config().admin_addr(addr), "probe and admin", "admin_addr"),
        (config().admin_addr(addr).no_probe(), "admin", "admin_addr"),
        (config().probe_addr(addr), "probe", "probe_addr"),
        (config().no_admin().probe_addr(addr), "probe", "probe_addr"),
    ] {
        let error = start(config).unwrap_err();
        let want = format!(
            "the {listener} listener cannot be bound to {addr}: \
             the port is in use, free it or set `{field}` to another (0 takes a free one)"
        );
        assert_eq!(error.to_string(), want);
        assert!(error.source().is_some(), "the cause is kept");
        let ControlError::Bind(bind) = error else {
            panic!("{error:?}");
        };
        assert_eq!(bind.addr(), addr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_another_machine_is_told() {
    let error = start(config().no_admin().probe_addr(at("192.0.2.1:0"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the probe listener cannot be bound to 192.0.2.1:0: \
         this machine does not have the address, set `probe_addr` to one that it has"
    );
}

#[test]
fn a_start_outside_a_runtime_is_told() {
    let error = start(config()).unwrap_err();
    assert!(
        error.to_string().contains("outside a Tokio runtime"),
        "{error}"
    );
}

#[test]
fn the_token_is_not_shown() {
    let shown = format!("{:?}", config().token(TOKEN));
    assert!(!shown.contains(TOKEN), "{shown}");
    assert!(shown.contains("***"), "{shown}");
}

#[test]
fn a_service_on_one_thread_can_start_and_stop_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let control = start(config()).unwrap();
        assert_eq!(get(control.admin_addr().unwrap(), "/livez").status, 200);
        control.stop().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_of_the_service_does_not_stop_it() {
    let control = start(config()).unwrap();
    let addr = control.admin_addr().unwrap();
    assert_eq!(get(addr, "/livez").status, 200);
    control.stop().await;
    assert!(TcpListener::bind(addr).is_ok());
}
