"""A newcomer's first five minutes: four real releases under live traffic, and a check of every claim."""
