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

#[test]
fn the_default_takes_half_of_the_open_files_and_never_too_many() {
    let table = [
        (None, 4_096),
        (Some(1_024), 512),
        (Some(1_048_576), 4_096),
        (Some(0), 1),
    ];
    for (open_files, connections) in table {
        assert_eq!(
            default_connections(open_files),
            connections,
            "{open_files:?}"
        );
    }
}

#[test]
fn limits_are_read_as_the_system_writes_them() {
    let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                Max processes             95936                95936                processes \n\
                Max open files            1024                 1048576              files     \n";
    assert_eq!(soft_limit(text, "Max open files"), Some(1_024));
    let unlimited = text.replace("1024 ", "unlimited ");
    for text in ["", "Max open files", &unlimited] {
        assert_eq!(soft_limit(text, "Max open files"), None, "{text:?}");
    }
    if cfg!(target_os = "linux") {
        assert!(open_files().is_some());
    }
}
