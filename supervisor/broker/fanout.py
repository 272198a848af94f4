"""The fan-out of one project: every entry to every live subscription, never waiting for any."""

from supervisor.broker.entry import Entry
from supervisor.broker.subscription import QueueLimits, Source, Subscription
from supervisor.ids import Cursor


class Fanout:
    """Owns a project's subscriptions. Entries come in order, from one caller."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._subscriptions: list[Subscription] = []
        self._past_lagged = 0
        self._past_expired = 0

    def __len__(self) -> int:
        return sum(not s.closed for s in self._subscriptions)

    @property
    def lagged(self) -> int:
        """How often any subscription was overrun."""
        return self._past_lagged + sum(s.lagged for s in self._subscriptions)

    @property
    def expired(self) -> int:
        """How often a cursor could not be continued from."""
        return self._past_expired + sum(s.expired for s in self._subscriptions)

    def subscribe(
        self, source: Source, thread_id: str | None, after: Cursor | None
    ) -> Subscription:
        """A new subscription; iterate it, and close it."""
        self._forget_closed()
        subscription = Subscription(source, thread_id, after, self._limits)
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, entry: Entry) -> None:
        """Offer one entry to all."""
        for subscription in self._subscriptions:
            subscription.offer(entry)

    def close(self) -> None:
        """End every subscription."""
        for subscription in self._subscriptions:
            subscription.close()
        self._forget_closed()

    def _forget_closed(self) -> None:
        for subscription in self._subscriptions:
            if subscription.closed:
                self._past_lagged += subscription.lagged
                self._past_expired += subscription.expired
        self._subscriptions = [s for s in self._subscriptions if not s.closed]
