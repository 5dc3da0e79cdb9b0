use super::*;

#[tokio::test(start_paused = true)]
async fn a_failed_accept_waits_unless_only_its_connection_failed() {
    let server = Server::new("public", ServerConfig::default()).unwrap();
    let waits = [
        (ErrorKind::ConnectionAborted, 0),
        (ErrorKind::ConnectionReset, 0),
        (ErrorKind::ConnectionRefused, 0),
        // Too many open files has no kind of its own.
        (ErrorKind::Other, 50),
    ];
    for (kind, millis) in waits {
        let before = tokio::time::Instant::now();
        server.shared.accept_failed(&kind.into()).await;
        let waited = tokio::time::Instant::now().saturating_duration_since(before);
        assert_eq!(waited, Duration::from_millis(millis), "{kind}");
    }
}
