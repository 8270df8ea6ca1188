"""The entries of the log a person or a program looks for: each has an id of its own for ever (MESSAGE_ID).

``journalctl MESSAGE_ID=…`` finds them, ``journalctl -x`` explains them: systemd/k3s-ha-agent.catalog has a
text for each (sd_journal_print(3), systemd.io "Journal Message Catalogs").
Said by ``log.info(…, message_id=Message.READY)``.
"""

from __future__ import annotations

import enum


class Message(enum.StrEnum):
    READY = "33d99036279c4eb781c00affc23b2dbc"
    STOPPED_MIDWAY = "ee2da8303cbe4d39a8cb526baa0fceb2"
    RESUMED = "a7c805078aa14daca879391a0835331f"
    BEGUN = "a73182dd27e148ff81ce3e1afb76c802"
    REFUSED = "5818a25bfcb149a5a6495c22a61c1071"
    STEP_FAILED = "13a1fb77a6a04969aedf900c302bd84b"
    SUCCEEDED = "dd55d074aea1416dad9d81ae8f97c926"
    ROLLED_BACK = "33c13b6b1e544854bb3936b0f21b9f46"
    ROLLBACK_FAILED = "8c3862ef436f4764aa49829bb4506331"
    NOT_TIDIED = "a5baaa6ca0d24c04ad8993b4652f9b06"
    STOPPED_UNEXPECTEDLY = "e8de508a9e2b4fa683cf5f2431c21415"
    RECORD_UNREADABLE = "7543d595fbca447382cf533b9ccb08c4"
    CHANGE_ASKED = "d958d57b5860429ea5cc20f7dce454f5"
    AUDIT_UNWRITABLE = "ca0f0c23ba45467c91c9450943ebbc40"
    PORT_CLOSED = "ec8b918b65c644bfbf5812b3068f24a7"
    BACKUP_REMOVED = "2be6054ec03e48859a53042906319213"
    BUG = "3115e2f555024e569d808309548494bc"
