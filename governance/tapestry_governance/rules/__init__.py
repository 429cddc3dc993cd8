"""The rules that every entry of the log must keep, and the state that follows.

:func:`~tapestry_governance.rules.replay.apply` takes a state and the next entry and
returns the next state, or raises an error with the code of the broken rule. The rules
are those of ``governance/EVENTS.md``, by its numbers:

1. Charter (``replay``): charter-not-first, charter-refers-back. Acceptance
   (``member_rules``): founding-incomplete, accepted-charter-differs,
   accepted-request-differs, charter-accepted-twice, possession-not-proven, key-taken,
   reader-unknown, readers-too-few, readers-not-connected.

2. Author (``replay``): role-not-allowed, actor-unknown, signature-missing,
   signature-invalid, signer-not-allowed, member-left (``member_rules``).

3. Place (``replay``): event-duplicated, federation-differs, reference-forward; an
   event of a type that has no rule: event-without-rule.

4. Seen log (``replay``): seen-size-invalid, log-forked.

5. Opening (``round_rules``): federation-paused, round-still-open, round-not-next,
   first-round-missing, attempt-above-limit, federation-differs, base-not-current,
   base-not-allowed, software-not-allowed,
   policy-differs, roster-differs, participant-not-in-roster, participant-left,
   cohort-too-small,
   max-colluding-too-small, threshold-out-of-range, noise-not-allowed,
   noise-not-positive, delta-above-policy, and what makes noise unaccountable:
   noise-below-grid, grid-too-coarse, noise-share-not-positive.

6. Commitment (``round_rules``): round-not-open, node-not-in-cohort, attempt-refused,
   refusal-duplicated, attempt-committed, commitment-differs, commitment-duplicated,
   account-missing.

7. Account (``account_rules``): node-not-in-cohort, account-duplicated,
   account-number-taken, steps-differ,
   mechanism-differs, privacy-terms-differ, noise-not-allowed, noise-too-low,
   data-not-declared, sampling-rate-too-low, epsilon-decreased, epsilon-above-cap,
   delta-above-policy, training-without-noise, blocks-differ, unit-differs,
   segments-differ,
   adapter-run-unreleased, accounts-too-many.

8. Closing (``round_rules``): round-not-open, participants-differ, sum-too-small,
   commitment-unknown, base-before-differs, rejected-round-moved-base.

   Abort and dispute: round-not-open, coordinator-not-replaced, commitment-unknown;
   dispute-without-round, dispute-duplicated.

9. Release (``model_rules``): release-without-round, release-of-old-round,
   release-model-differs, release-duplicated, release-predecessor-differs,
   release-name-not-next.

10. Adapter (``model_rules``): adapter-name-reserved, adapter-name-taken,
    adapter-version-not-next, adapter-base-unpublished, release-withdrawn,
    licence-not-allowed, adapter-not-accounted, adapter-run-differs,
    adapter-epsilon-differs,
   noise-not-allowed, delta-above-policy, epsilon-above-cap, training-without-noise.

    Withdrawal by its owner: withdrawal-subject-unknown, adapter-name-taken,
    withdrawn-already.

11. Data (``replay``): data-version-not-next, declarations-too-many,
    unit-differs, block-without-key.

12. Proposal (``vote_rules``, ``proposal_rules``): proposal-voters-differ,
    proposals-too-many, votes-cannot-suffice, policy-version-not-next, member-known,
    member-unknown, removal-leaves-too-few, members-too-many, key-taken,
    possession-not-proven, coordinator-is-member, log-origin-differs, pause-unchanged,
    withdrawal-subject-unknown, withdrawn-already, witness-name-taken (also at the
    founding).

13. Vote (``vote_rules``): vote-without-subject, vote-subject-differs, vote-closed,
    vote-not-allowed, vote-unchanged, votes-too-many, entry-superseded (``replay``).

14. Taking effect (``settlement``): nothing is refused; what cannot be put in force any
    more is overtaken.

15. New key (``member_rules``): possession-not-proven, key-taken, rotations-too-many,
    transport-key-compromised (also of an admission), witness-not-spared,
    witness-name-differs,
    entry-superseded (``replay``).

A reader that asks for the witnesses of a log that is not founded: log-not-founded.

An audit composes the accounts again and finds a report that is too low
(``audit.privacy_accounts``): epsilon-understated.
"""
