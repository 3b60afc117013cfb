"""The release domain: releases, their queue and approvals, freezes, audit, rollout and analysis."""
