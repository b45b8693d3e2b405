"""The storage server: keeps volumes on disk, talks to its peers and to mounts."""
