"""Airflow's FAB login, under which specs name approvers by the names they log in with.

`[core] auth_manager = slipway_airflow.fab.SlipwayFab` where Airflow's FAB provider is installed. Users,
roles and permissions stay FAB's; Airflow's own page and Slipway's both ask this.
"""

from __future__ import annotations

from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User


class SlipwayFab(FabAuthManager):
    """FabAuthManager, which knows those who are asked by their user names as well as by their ids."""

    def is_authorized_hitl_task(self, *, assigned_users: set[str], user: User) -> bool:
        """Whether the person is one of those asked."""
        if super().is_authorized_hitl_task(assigned_users=assigned_users, user=user):
            return True
        # A number is an id: whoever calls himself by one is not taken for another.
        name = user.username if isinstance(user, User) else ""
        return name in assigned_users and not name.isdecimal()
