//! A process of its own, because a recorder cannot be taken back.

#[test]
fn a_foreign_recorder_is_told() {
    metrics::set_global_recorder(metrics::NoopRecorder).unwrap();
    for _ in 0..2 {
        let error = plimsoll_admin::install_recorder().unwrap_err();
        assert_eq!(
            error.to_string(),
            "another metrics recorder is installed: pass its `PrometheusHandle` to \
             `Control::start`, or pass none and scrape it where it serves"
        );
    }
}
