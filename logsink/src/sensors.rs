//! Connections of our own sensors: messages in, acknowledgements out.

use std::sync::Arc;

use events::framing::{Deframer, Framing};
use events::wire::{self, MESSAGE_BYTES_MAX, Position};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::guest::listen::pause;
use crate::writer::{Acks, Inlet};

/// Connections at one time: a process of the house has one, a domain has one.
const CONNECTIONS_MAX: usize = 1024;

/// Takes connections, for ever.
pub async fn listen(listener: UnixListener, inlet: Inlet) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Ends its tasks when this one ends.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Who comes when all are taken waits in the backlog.
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let inlet = inlet.clone();
                connections.spawn(async move {
                    connection(stream, inlet).await;
                    drop(permit);
                });
            }
            Err(error) => pause("sensors' socket", &error).await,
        }
    }
}

async fn connection(stream: UnixStream, inlet: Inlet) {
    let (input, output) = stream.into_split();
    let (acks, news) = watch::channel(None);
    let answering = tokio::spawn(answer(output, news));
    receive(input, &inlet, &acks).await;
    // Messages still in the writer's hands hold a clone: the answers end when the last is written.
    drop(acks);
    if answering.await.is_err() {
        tracing::error!("answering a sensor panicked");
    }
}

async fn receive(mut input: OwnedReadHalf, inlet: &Inlet, acks: &Acks) {
    let mut deframer = Deframer::new(Framing::OctetCounting, MESSAGE_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = input.read(&mut buffer).await {
        deframer.push(buffer.get(..count).unwrap_or_default());
        loop {
            match deframer.next_message() {
                Ok(None) => break,
                Ok(Some(message)) => match wire::parse(&message) {
                    Ok(received) => {
                        if !inlet.sensor(message, received, acks).await {
                            return;
                        }
                    }
                    Err(error) => return tracing::warn!("a sensor is not understood: {error}"),
                },
                Err(error) => return tracing::warn!("a sensor is not understood: {error}"),
            }
        }
    }
}

async fn answer(mut output: OwnedWriteHalf, mut news: watch::Receiver<Option<Position>>) {
    while news.changed().await.is_ok() {
        let position = news.borrow_and_update().clone();
        if let Some(position) = position
            && output.write_all(wire::ack(&position).as_bytes()).await.is_err()
        {
            return;
        }
    }
}
