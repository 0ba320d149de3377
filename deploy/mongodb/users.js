// Run once, when the volume is empty: the service's own user, for its own database alone.
const password = require("fs").readFileSync("/run/secrets/mongodb-gary-password", "utf8");
db.getSiblingDB("gary").createUser({ user: "gary", pwd: password, roles: [{ role: "readWrite", db: "gary" }] });
