//! What the admin API shows of the memory of a service that goes by a file.

use crate::support::{Folder, until};
use plimsoll::{Config, Plimsoll};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

/// The status and the body of an answer.
fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pressure_is_shown_and_makes_unready_where_the_file_says_so() {
    let folder = Folder::new("shown-pressure");
    let control = "admin_addr: 127.0.0.1:0, readiness_on_pressure: critical, max_unready: 1h";
    let memory = "memory: {monitor: {limit: 1MiB}}";
    folder.config(&format!("control: {{{control}}}\n{memory}\n"));
    let loaded = folder.files().load(Config::new()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    plimsoll.lifecycle().set_ready();
    let addr = plimsoll.admin_addr().unwrap();
    until(|| get(addr, "/readyz") == (503, "pressure".to_owned())).await;
    assert_eq!(get(addr, "/livez").0, 200);
    let (status, stats) = get(addr, "/api/v1/memory/stats");
    assert_eq!(status, 200);
    assert!(stats.contains(r#""level":"critical""#), "{stats}");
    let (_, metrics) = get(addr, "/metrics");
    assert!(metrics.contains("plimsoll_ready 0\n"), "{metrics}");
    assert!(
        metrics.contains("plimsoll_memory_level{level=\"critical\"} 1\n"),
        "{metrics}"
    );

    // What the file says of the monitor counts at once, and of control later.
    folder.config(&format!(
        "control: {{{control}}}\nmemory: {{monitor: {{limit: 8GiB}}}}\n"
    ));
    plimsoll.reload().await.unwrap();
    // Unless others have taken the memory of the machine.
    let figure = |name: &str| {
        let (_, metrics) = get(addr, "/metrics");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        value.unwrap_or(0.0)
    };
    let limit = || figure("plimsoll_memory_limit_bytes ");
    let is_short = || figure("plimsoll_memory_used_bytes ") > 0.8 * limit();
    until(|| limit() > f64::from(1 << 30)).await;
    until(|| is_short() || get(addr, "/readyz") == (200, "ready".to_owned())).await;

    folder.config("control: {readiness_on_pressure: elevated, max_unready: 0}\n");
    let error = plimsoll.reload().await.unwrap_err();
    let keys = error.problems().iter().map(|problem| &*problem.key);
    let expected = ["control.readiness_on_pressure", "control.max_unready"];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
}
