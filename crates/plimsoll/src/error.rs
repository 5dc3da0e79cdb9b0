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
    #[cfg(feature = "http")]
    Memory(plimsoll_core::ConfigError),
    #[cfg(feature = "http")]
    Monitor(plimsoll_memory::ManagerError),
    NoRuntime,
    #[cfg(feature = "http")]
    Server(plimsoll_core::ConfigError),
    #[cfg(feature = "client")]
    Webhook(plimsoll_core::ConfigError),
    #[cfg(feature = "client")]
    Hook(plimsoll_memory::alert::HookError),
}

impl StartError {
    fn cause(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            #[cfg(feature = "admin")]
            Cause::Control(error) => Some(error),
            Cause::Lifecycle(error) => Some(error),
            #[cfg(feature = "http")]
            Cause::Monitor(error) => Some(error),
            Cause::NoRuntime => None,
            #[cfg(feature = "http")]
            Cause::Memory(error) | Cause::Server(error) => Some(error),
            #[cfg(feature = "client")]
            Cause::Webhook(error) => Some(error),
            #[cfg(feature = "client")]
            Cause::Hook(error) => Some(error),
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
        // Others say by themselves whose settings they are of.
        #[cfg(feature = "client")]
        if matches!(self.0, Cause::Webhook(_) | Cause::Hook(_)) {
            f.write_str("webhook: ")?;
        }
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

/// An adapter could not be registered.
#[cfg(feature = "adapter")]
#[derive(Debug)]
#[non_exhaustive]
pub enum AdapterSetupError {
    /// Its name is taken, or there is no place for it.
    Register(plimsoll_core::registry::RegisterError),
    /// What files and variables say does not fit what the code says.
    #[cfg(feature = "config")]
    Config(plimsoll_config::LoadError),
}

#[cfg(feature = "adapter")]
impl From<plimsoll_core::registry::RegisterError> for AdapterSetupError {
    fn from(error: plimsoll_core::registry::RegisterError) -> Self {
        Self::Register(error)
    }
}

#[cfg(feature = "config")]
impl From<plimsoll_config::LoadError> for AdapterSetupError {
    fn from(error: plimsoll_config::LoadError) -> Self {
        Self::Config(error)
    }
}

#[cfg(feature = "adapter")]
impl fmt::Display for AdapterSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
            #[cfg(feature = "config")]
            Self::Config(error) => error.fmt(f),
        }
    }
}

#[cfg(feature = "adapter")]
impl Error for AdapterSetupError {}
