//! A connection inside this process: two pipes and the two ends that share them.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::budget::Budget;
use crate::pipe::{Pipe, Unread, Way};
use crate::services::Endpoint;

/// Both directions of one connection.
pub(crate) struct Connection {
    to_server: Pipe,
    to_client: Pipe,
    /// The endpoint of a Service that the connection was balanced to, where its bytes are counted.
    endpoint: Mutex<Option<Arc<Endpoint>>>,
}

/// One side's hold on a connection; dropping it closes that side.
pub(crate) struct End {
    connection: Arc<Connection>,
    side: Side,
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Connection {
    /// Returns a fresh connection; each side's writing is charged to its own budget and counted at both.
    pub(crate) fn new(
        client: Arc<Budget>,
        server: Arc<Budget>,
        endpoint: Option<Arc<Endpoint>>,
    ) -> Arc<Connection> {
        let connection = Connection {
            to_server: Pipe::new(Arc::clone(&client), &server),
            to_client: Pipe::new(server, &client),
            endpoint: Mutex::default(),
        };
        if let Some(endpoint) = endpoint {
            connection.count_at(endpoint);
        }
        Arc::new(connection)
    }

    fn count_at(&self, endpoint: Arc<Endpoint>) {
        self.to_server.count_at(&endpoint, Way::Received);
        self.to_client.count_at(&endpoint, Way::Sent);
        *self.endpoint.lock() = Some(endpoint);
    }

    /// Returns the two ends. Called once per connection: an end closes its side when dropped.
    pub(crate) fn ends(self: &Arc<Connection>) -> (End, End) {
        let end = |side| End {
            connection: Arc::clone(self),
            side,
        };
        (end(Side::Client), end(Side::Server))
    }

    /// Breaks both directions.
    pub(crate) fn reset(&self) {
        self.to_server.reset();
        self.to_client.reset();
    }
}

impl End {
    /// Returns the pipe this side reads.
    pub(crate) fn incoming(&self) -> &Pipe {
        match self.side {
            Side::Client => &self.connection.to_client,
            Side::Server => &self.connection.to_server,
        }
    }

    /// Returns the pipe this side writes.
    pub(crate) fn outgoing(&self) -> &Pipe {
        match self.side {
            Side::Client => &self.connection.to_server,
            Side::Server => &self.connection.to_client,
        }
    }

    /// Returns the endpoint the connection was balanced to, if it was.
    pub(crate) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.connection.endpoint.lock().clone()
    }

    /// Returns the connection.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Gives the accepting side to another endpoint: it pays for what it writes, and the bytes are
    /// counted there. Called before anybody accepted.
    pub(crate) fn move_to(&self, endpoint: &Arc<Endpoint>, budget: &Arc<Budget>) {
        self.outgoing().charge_to(budget);
        let client = self.incoming().budget();
        self.incoming().read_by(budget);
        self.outgoing().read_by(&client);
        self.connection.count_at(Arc::clone(endpoint));
    }

    /// Breaks the whole connection.
    pub(crate) fn reset(&self) {
        self.connection.reset();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        match self.incoming().leave() {
            Unread::Nothing => self.outgoing().finish(),
            Unread::Something => self.connection.reset(),
        }
    }
}
