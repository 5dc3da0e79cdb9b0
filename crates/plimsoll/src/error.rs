use std::{error::Error, fmt};

/// A service could not be started.
///
/// Its message names the setting, its value and the remedy; `source` tells of the cause below.
#[derive(Debug)]
pub struct StartError(Cause);

#[derive(Debug)]
pub(crate) enum Cause {
    #[cfg(feature = "admin")]
    Control(plimsoll_admin::ControlError),
    Lifecycle(plimsoll_core::ConfigError),
    NoRuntime,
    #[cfg(feature = "http")]
    Server(plimsoll_core::ConfigError),
}

impl StartError {
    fn cause(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            #[cfg(feature = "admin")]
            Cause::Control(error) => Some(error),
            Cause::Lifecycle(error) => Some(error),
            Cause::NoRuntime => None,
            #[cfg(feature = "http")]
            Cause::Server(error) => Some(error),
        }
    }
}

impl From<Cause> for StartError {
    fn from(cause: Cause) -> Self {
        Self(cause)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause() {
            Some(cause) => fmt::Display::fmt(cause, f),
            None => f.write_str(
                "there is no Tokio runtime: call `Plimsoll::start` inside one, in `main` under \
                 `#[tokio::main]` say",
            ),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // `Display` speaks for the cause, so the chain goes on below it.
        self.cause().and_then(Error::source)
    }
}
