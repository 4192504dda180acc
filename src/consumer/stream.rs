//! A consumer as a [`Stream`], for tasks of whatever runtime (feature `async`).

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Consumer, ConsumerRecords};
use crate::error::Result;

/// Poll after poll: each item is what one poll returns, never nothing. It does not end; after an error it goes on as
/// [`Consumer::poll`] does. What is due by time alone is done as
/// [`poll_records`](Consumer::poll_records) says.
impl Stream for Consumer {
    type Item = Result<ConsumerRecords>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_records(context).map(Some)
    }
}
