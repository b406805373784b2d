"""A reactor's turns and its waiting: descriptors, and whether there is anything to do."""
