"""The typed methods of both clients. Generated from what the RPC methods declare; do not edit."""
