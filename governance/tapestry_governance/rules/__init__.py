"""The rules that every entry of the log must keep, and the state that follows.

:func:`~tapestry_governance.rules.replay.apply` takes a state and the next entry and
returns the next state, or raises. ``governance/EVENTS.md`` is the normative page; its
numbers are used here.

1. *Charter.* Entry 0 is a charter, signed by the coordinator and by the root keys of
   most members; its policy has version 1. There is no other charter. (``replay``)

2. *Author.* An entry is signed by the key that its actor holds for its role, and by no
   key that may not sign it. The type of the event names the roles that may say it. A
   policy takes the root keys of more than half of the members. (``replay``)

3. *Place.* The event id is new, the federation is the charter's, and references point
   backward. (``replay``)

4. *View.* The checkpoint that the author says it has seen is a prefix of this very log
   and not smaller than one that it named before. This exposes forks. (``replay``)

5. *Opening.* One round is open at a time, and it follows the last one by number or
   attempt. It starts from the current base, or from a base that the policy names. Its
   cohort, threshold, noise and delta are within the policy in force, whose digest it
   names together with that of the roster. (``round_rules``)

6. *Commitment.* A participant commits once to the open attempt, to the manifest that is
   in the log, and not after it refused. (``round_rules``)

7. *Accounting.* A participant accounts once for an attempt, also for one that ended.
   Noise, its own part of it and the sampling rate are not below the plan's; steps, clip
   norm, delta and grid are equal to it. Epsilon never falls within a run and stays
   under the cap; after a training without noise none may follow. (``model_rules``)

8. *Closing.* Included and dropped nodes are the participants, and no fewer than
   threshold and floor are included. Each of them has committed, at the index that is
   named, and has accounted. The base before is the manifest's; a rejected round leaves
   it as it was. (``round_rules``)

9. *Release.* A release follows a closed round, names the current base, the release
   before it, and has a higher number. (``model_rules``)

10. *Adapter.* An adapter grew on a release, has a licence of the policy, a version that
    rises and one publisher for ever, who accounted for it with the same epsilon and
    delta. (``model_rules``)

11. *Policy.* Policies follow one another by version, between rounds. (``replay``)
"""
